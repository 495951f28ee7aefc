-- Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
--
-- wrk for as long as it runs, through restarts, with what was answered:
--
--     wrk -s record.lua … URL -- KEYS OUT
--
-- KEYS: PATH <tab> KEY, one line each, sent by turns; OUT.1, OUT.2, … for each
-- thread: STATUS <tab> X-Request-Id, one line a response.

local threads = 0

function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end

function init(args)
    requests, turn = {}, number
    for line in io.lines(args[1]) do
        local path, key = line:match("^(.-)\t(.*)$")
        requests[#requests + 1] = wrk.format("GET", path, {
            ["Host"] = "gateway.test",
            ["Authorization"] = "Bearer " .. key })
    end
    out = assert(io.open(args[2] .. "." .. number, "w"))
    out:setvbuf("full", 65536)
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function response(status, headers)
    out:write(status, "\t", headers["X-Request-Id"] or "-", "\n")
    written = (written or 0) + 1
    if written % 100 == 0 then
        out:flush()
    end
end
