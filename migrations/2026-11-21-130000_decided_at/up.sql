-- workers::runtime: the owner's clock when it decided the message at the cursor. Whatever comes
-- behind the cursor is decided by a clock that is no earlier, so that a command without an outcome
-- whose deadline lies before it has none for good.
ALTER TABLE partition ADD COLUMN decided_at timestamptz NOT NULL DEFAULT 'epoch';
