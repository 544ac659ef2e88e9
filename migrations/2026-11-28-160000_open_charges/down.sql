DROP INDEX payment_order_open_charge;
