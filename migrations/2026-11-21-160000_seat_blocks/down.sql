DROP TABLE seat_block;
