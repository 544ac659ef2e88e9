DROP INDEX refund_open;
DROP INDEX refund_made_at;
DROP INDEX payment_order_created_at;
