DROP TABLE write_off;
ALTER TABLE payment_order DROP COLUMN may_be_back;
