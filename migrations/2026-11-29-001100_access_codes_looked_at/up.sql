-- What takes a look at every ticket, apart from what locks the table for readers. Not CONCURRENTLY: that
-- waits for whoever waits to migrate, too, which waits for it.
ALTER TABLE ticket VALIDATE CONSTRAINT ticket_admitted;
CREATE INDEX ticket_access_code ON ticket (access_code_id) WHERE access_code_id IS NOT NULL;
