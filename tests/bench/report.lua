-- Prints the result of a run as one line of JSON; `taken` is how many carts or events its script has used.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function done(summary, latency)
  local errors, taken = summary.errors, 0
  for _, thread in ipairs(threads) do
    taken = taken + (thread:get("taken") or 0)
  end
  io.write(string.format(
    '{"seconds": %.6f, "requests": %d, "failed": %d, "taken": %d, "p50_ms": %.3f, "p99_ms": %.3f, "worst_ms": %.3f}\n',
    summary.duration / 1e6,
    summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    taken,
    latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3,
    latency.max / 1e3
  ))
end
