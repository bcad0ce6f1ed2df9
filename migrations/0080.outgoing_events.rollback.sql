-- Loses the endpoints with their secrets, and the events: those delivered and those still to be delivered.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DELETE FROM worker_heartbeats WHERE loop = 'deliver_events';
DROP TABLE product_announcements;
DROP TABLE event_deliveries;
DROP TABLE event_leases;
DROP TABLE event_endpoints;
