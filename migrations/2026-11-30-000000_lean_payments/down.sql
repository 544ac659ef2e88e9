-- In the order of workers, who all take accounts first.
LOCK TABLE account, transfer, payment;
ALTER TABLE payment
    ADD CONSTRAINT payment_transfer_id_fkey FOREIGN KEY (transfer_id) REFERENCES transfer
        DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE transfer
    DROP CONSTRAINT transfer_sides,
    ADD CONSTRAINT transfer_kind_check CHECK (kind IN ('CHARGE', 'PAYMENT', 'REFUND')),
    ADD CONSTRAINT transfer_debit_fkey FOREIGN KEY (debit) REFERENCES account,
    ADD CONSTRAINT transfer_credit_fkey FOREIGN KEY (credit) REFERENCES account;
