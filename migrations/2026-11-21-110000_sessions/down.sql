DROP TABLE stream_token;
DROP TRIGGER app_user_role_changed ON app_user;
DROP FUNCTION app_user_role_changed;
DROP INDEX session_revoked_at;
ALTER TABLE session
    DROP COLUMN family_digest,
    DROP COLUMN previous_digest,
    DROP COLUMN renewed_at;
