-- workers::settlement: notifications of the payment gateway that had their effect. They are purged
-- when no repetition of them would be believed any more.
CREATE TABLE gateway_event (
    event_id text PRIMARY KEY CHECK (char_length(event_id) BETWEEN 1 AND 200),
    at timestamptz NOT NULL
);
CREATE INDEX gateway_event_at ON gateway_event (at);
