DROP INDEX ticket_access_code;
