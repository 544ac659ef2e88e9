-- workers::runtime: a worker that is about to go keeps what it has until it has let go of it, and is
-- given nothing more; those who stay take each partition as soon as it is free.
ALTER TABLE worker ADD COLUMN leaving boolean NOT NULL DEFAULT false;
