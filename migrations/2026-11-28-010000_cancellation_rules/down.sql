DROP INDEX payment_order_open;
DROP INDEX cancellation_of_show;
ALTER TABLE cancellation DROP COLUMN of_show;
DROP TABLE show_cancellation;
ALTER TABLE reservation DROP COLUMN fact_seq;
ALTER TABLE schedule DROP COLUMN cancellation_rules;
