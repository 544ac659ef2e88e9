ALTER TABLE payment
    ALTER CONSTRAINT payment_transfer_id_fkey NOT DEFERRABLE;
