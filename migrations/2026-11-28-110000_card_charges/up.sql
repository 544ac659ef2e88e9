-- Card charges through the gateway. Such an order pays no reservation: it is captured without the
-- buyer's agreeing to it once more, and ends as points. The transfer of these has the order's id as
-- its own and as its cause, so that there is one.
ALTER TABLE payment_order
    ALTER COLUMN reservation_id DROP NOT NULL,
    ALTER COLUMN schedule_id DROP NOT NULL,
    ADD CONSTRAINT payment_order_purpose CHECK ((reservation_id IS NULL) = (schedule_id IS NULL)),
    -- There are no seats that anybody could be asked for.
    ADD CONSTRAINT payment_order_charge
        CHECK (reservation_id IS NOT NULL
               OR status IN ('CAPTURING', 'UNKNOWN', 'CAPTURED', 'PAID', 'FAILED', 'REFUNDING',
                             'REFUNDED')
                  AND notice_id IS NULL AND rehold_id IS NULL);
