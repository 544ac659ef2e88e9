DROP INDEX dead_letter_untried;
ALTER TABLE payment_order DROP COLUMN odd_at;
