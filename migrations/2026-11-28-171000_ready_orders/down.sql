DROP TRIGGER payment_order_keep ON payment_order;
DROP FUNCTION payment_order_is_kept;
DROP INDEX payment_order_id;
DROP INDEX payment_order_ready;
DROP TABLE payment_order_key;
