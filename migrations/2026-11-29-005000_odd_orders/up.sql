-- What somebody has to see to stays in sight.

-- workers::settlement: since when the gateway's payment is known not to be what was ordered; none when
-- it is, or when there is none.
ALTER TABLE payment_order ADD COLUMN odd_at timestamptz;
CREATE INDEX payment_order_odd ON payment_order (odd_at) WHERE odd_at IS NOT NULL;

-- Hardly any, for good.
CREATE INDEX dead_letter_untried ON dead_letter (at)
    WHERE command_index >= 0 AND retried_at IS NULL;
