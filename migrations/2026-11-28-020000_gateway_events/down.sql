DROP TABLE gateway_event;
