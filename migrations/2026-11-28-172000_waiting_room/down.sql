DROP TABLE ticket;
DROP TABLE waiting_room;
