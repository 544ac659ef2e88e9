-- Only for a database without gateway payments, cancellations and refunds of this version.
ALTER TABLE reservation
    DROP COLUMN rehold_order,
    DROP COLUMN paying_order,
    DROP COLUMN cancelled_seat_nos;
ALTER TABLE transfer
    DROP CONSTRAINT transfer_kind_check,
    ADD CONSTRAINT transfer_kind_check CHECK (kind IN ('CHARGE', 'PAYMENT'));
DROP TABLE refund;
DROP TABLE cancellation;
ALTER TABLE payment
    DROP CONSTRAINT payment_refunded,
    DROP CONSTRAINT payment_money,
    ADD CONSTRAINT payment_check1 CHECK (status = 'FAILED' OR amount = 0 OR transfer_id IS NOT NULL),
    DROP CONSTRAINT payment_method_check,
    ADD CONSTRAINT payment_method_check CHECK (method IN ('POINTS')),
    DROP COLUMN refunded,
    DROP COLUMN order_id;
DROP TABLE payment_order;
