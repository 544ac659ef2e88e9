-- Nothing else could put these seats on sale again.
DELETE FROM seat_claim WHERE state = 'B';
DROP TABLE seat_block;
