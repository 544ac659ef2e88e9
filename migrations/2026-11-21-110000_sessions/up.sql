-- ingress: what a session needs to be ended at once, and to notice a stolen refresh token.
--
-- family_digest is of the part of a refresh token that stays the same for as long as the session
-- lives: who presents it with an old rest presents a token that was exchanged before.
-- previous_digest and renewed_at tell the last of those from all others, for a moment of grace.
ALTER TABLE session
    ADD COLUMN family_digest bytea UNIQUE,
    ADD COLUMN previous_digest bytea,
    ADD COLUMN renewed_at timestamptz;
-- Each ingress reads what was revoked lately, once a second.
CREATE INDEX session_revoked_at ON session (revoked_at, session_id) WHERE revoked_at IS NOT NULL;

-- A role is written in the access token. Whoever changes it, by whatever way, ends the sessions
-- that were signed in with the old one.
CREATE FUNCTION app_user_role_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE session SET revoked_at = clock_timestamp()
    WHERE user_id = NEW.user_id AND revoked_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER app_user_role_changed AFTER UPDATE OF role ON app_user
    FOR EACH ROW WHEN (OLD.role IS DISTINCT FROM NEW.role)
    EXECUTE FUNCTION app_user_role_changed();

-- ingress: tokens for the query of an event stream, each good once; a row is one that was not used.
CREATE TABLE stream_token (
    digest bytea PRIMARY KEY,
    user_id uuid NOT NULL,
    session_id uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX stream_token_expires_at ON stream_token (expires_at);
