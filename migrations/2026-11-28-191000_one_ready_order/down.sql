DROP INDEX payment_order_one_ready;
