ALTER TABLE access_code DROP COLUMN used;
