-- What wrk sends: settlement requests or messages to some accounts in turn, each request under an
-- idempotency key of its own. Arguments: kind, prefix of the keys, number of accounts, step from
-- one account's number to the next, pause of each connection between its requests in ms.
-- At the end one line of JSON says what came of it.

local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   kind, prefix, accounts, step = args[1], args[2], tonumber(args[3]), tonumber(args[4])
   local pause_ms = tonumber(args[5])
   if pause_ms > 0 then
      delay = function() return pause_ms end
   end
   sent = 0
   local body, media_type = '{"amount":"100","scale":2}', "application/json"
   if kind == "messages" then
      body, media_type = '{"type":"echo"}', "application/octet-stream"
   end
   middle = table.concat({
      "/" .. kind .. " HTTP/1.1", "Host: localhost", "Content-Type: " .. media_type,
      "Content-Length: " .. #body, "Idempotency-Key: " .. prefix .. number .. "-",
   }, "\r\n")
   tail = "\r\n\r\n" .. body
end

function request()
   sent = sent + 1
   return "POST /accounts/a" .. sent % accounts * step .. middle .. sent .. tail
end

function done(summary, latency, requests)
   local tried = 0
   for _, thread in ipairs(threads) do
      tried = tried + thread:get("sent")
   end
   local errors = summary.errors
   io.write(string.format(
      '\nload: {"requests": %d, "sent": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
      '"max_us": %d, "refused": %d, "broken": %d}\n',
      summary.requests, tried, summary.duration, latency:percentile(50), latency:percentile(99),
      latency.max, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout))
end
