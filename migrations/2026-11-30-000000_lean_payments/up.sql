-- Every payment has the account of all sales on one side, and every charge one of two. As foreign keys
-- these made each transfer look up and lock that one row, which all that pay at once did together. The
-- system's side is one of a few constants, and is checked as that; the other is an account that the same
-- transaction has locked or made; and a payment's transfer is written beside it. That they are there is
-- what the audit tells (L1, P1).

-- In the order of workers, who all take accounts first.
LOCK TABLE account, transfer, payment;
ALTER TABLE transfer
    DROP CONSTRAINT transfer_debit_fkey,
    DROP CONSTRAINT transfer_credit_fkey,
    DROP CONSTRAINT transfer_kind_check,
    ADD CONSTRAINT transfer_sides CHECK (
        CASE kind
            WHEN 'CHARGE' THEN debit IN ('00000000-0000-0000-0000-00000000ca4d',
                                         '00000000-0000-0000-0000-00000000ca54')
            WHEN 'PAYMENT' THEN credit = '00000000-0000-0000-0000-000000005a1e'
            WHEN 'REFUND' THEN debit = '00000000-0000-0000-0000-000000005a1e'
            ELSE false
        END);
ALTER TABLE payment DROP CONSTRAINT payment_transfer_id_fkey;
