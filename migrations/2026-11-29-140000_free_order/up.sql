-- A batch sends its transfers and its payments in one go, in any order.
ALTER TABLE payment
    ALTER CONSTRAINT payment_transfer_id_fkey DEFERRABLE INITIALLY DEFERRED;
