-- Indexes that hold only what is looked for: every hold, charge and payment writes them.

-- Hardly any reservation was made by a late capture.
ALTER TABLE reservation DROP CONSTRAINT reservation_rehold_order_key;
CREATE UNIQUE INDEX reservation_rehold_order ON reservation (rehold_order)
    WHERE rehold_order IS NOT NULL;

-- Of the two accounts of a transfer one is a user's; nobody asks for the history of the others.
DROP INDEX transfer_debit;
DROP INDEX transfer_credit;
CREATE INDEX transfer_debit ON transfer (debit, at) WHERE kind = 'PAYMENT';
CREATE INDEX transfer_credit ON transfer (credit, at) WHERE kind <> 'PAYMENT';
