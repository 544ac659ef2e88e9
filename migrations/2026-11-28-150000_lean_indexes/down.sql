DROP INDEX transfer_debit;
DROP INDEX transfer_credit;
CREATE INDEX transfer_debit ON transfer (debit, at);
CREATE INDEX transfer_credit ON transfer (credit, at);
DROP INDEX reservation_rehold_order;
ALTER TABLE reservation ADD CONSTRAINT reservation_rehold_order_key UNIQUE (rehold_order);
