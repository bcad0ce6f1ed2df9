-- stuck/count_items: how much is stuck, for the gauge.
--
-- callers  service.shop.stuck.set_gauge
-- returns  many by kind; none = nothing is stuck
-- locks    none
-- waits    none
-- index    stuck_items_open
-- rows     0..n, usually 0
-- guards   none
SELECT
    kind,
    count(*) AS items
FROM stuck_items
WHERE ended_at IS NULL
GROUP BY kind
ORDER BY kind;
