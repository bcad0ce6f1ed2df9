-- GET <prefix><a number from 1 to count>; arguments: prefix, count, seed.
dofile("report.lua")

local prefix, count

function init(arguments)
  prefix, count = arguments[1], tonumber(arguments[2])
  math.randomseed(tonumber(arguments[3]))
end

function request()
  return wrk.format("GET", prefix .. math.random(1, count))
end
