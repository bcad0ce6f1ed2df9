-- POST <prefix><the id of the next cart><suffix>, as `load.cart_id` makes it; arguments: first, prefix, suffix.
dofile("report.lua")

local first, prefix, suffix
taken = 0

function init(arguments)
  first, prefix, suffix = tonumber(arguments[1]), arguments[2], arguments[3] or ""
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  local number = first + taken
  taken = taken + 1
  local id = string.format("%08x-0000-0000-0000-%012x", (number * 2654435761) % 4294967296, number)
  return wrk.format("POST", prefix .. id .. suffix, nil, "{}")
end
