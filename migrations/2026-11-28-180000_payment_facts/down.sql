-- What is on the outbox keeps its numbers: those of a reservation go on behind them.
ALTER TABLE reservation ADD COLUMN fact_seq bigint NOT NULL DEFAULT 0;
UPDATE reservation r SET fact_seq = o.seq
FROM (SELECT aggregate_id, max(seq) AS seq FROM outbox WHERE topic = 'payments' GROUP BY 1) AS o
WHERE o.aggregate_id = r.reservation_id;
DROP TABLE payment_facts;
