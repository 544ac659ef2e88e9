DROP INDEX payment_order_open;
DROP INDEX cancellation_of_show;
ALTER TABLE cancellation DROP COLUMN of_show;
DROP TABLE show_cancellation;
DROP TABLE payment_facts;
ALTER TABLE schedule DROP COLUMN cancellation_rules;
