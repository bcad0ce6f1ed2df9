-- POST /webhooks/stripe, each event of a file once: a line each, its signature, a tab and its body.
dofile("report.lua")

local requests = {}
taken = 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    local signature, body = line:match("^([^\t]*)\t(.*)$")
    local headers = { ["Content-Type"] = "application/json", ["Stripe-Signature"] = signature }
    table.insert(requests, wrk.format("POST", "/webhooks/stripe", headers, body))
  end
end

function request()
  taken = taken + 1
  return requests[taken] or requests[#requests]
end
