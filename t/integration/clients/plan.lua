-- Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
--
-- wrk sends for a time; we need exactly so many requests. Each thread has a
-- plan, one request a line, and sends it once, line by line:
--
--     wrk -s plan.lua … URL -- PLAN OUT DEPTH
--
-- PLAN.1, PLAN.2, …: METHOD <tab> PATH <tab> KEY <tab> BODY, for each thread;
-- OUT.1, …: STATUS <tab> X-Request-Id, one line a response, and "end" when all
-- have come. DEPTH requests are pipelined; a plan's length is a multiple of it.
-- A connection that has nothing left to send is delayed for ever.
--
-- wrk calls delay() before each request() on a connection, so it is in delay()
-- that a connection gets its share. The one request() without a delay() before
-- is wrk's own, to see how many requests are pipelined, and is never sent.

local threads = 0

function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end

function init(args)
    depth = tonumber(args[3])
    plan, granted, taken, received = {}, 0, 0, 0
    for line in io.lines(args[1] .. "." .. number) do
        local method, path, key, body = line:match("^(.-)\t(.-)\t(.-)\t(.*)$")
        local headers = { ["Host"] = "gateway.test" }
        if key ~= "" then
            headers["Authorization"] = "Bearer " .. key
        end
        plan[#plan + 1] = wrk.format(method, path, headers,
                                     body ~= "" and body or nil)
    end
    out = assert(io.open(args[2] .. "." .. number, "w"))
end

function delay()
    if granted >= #plan then
        return 1000000000
    end
    granted = granted + depth
    return 0
end

function request()
    if granted == 0 then
        return table.concat(plan, "", 1, depth)
    end
    local first = taken + 1
    taken = taken + depth
    return table.concat(plan, "", first, taken)
end

function response(status, headers)
    local ids = headers["X-Request-Id"] or "-"
    out:write(status, "\t", ids, "\n")
    received = received + 1
    if received == #plan then
        out:write("end\n")
        out:close()
        wrk.thread:stop()
    end
end
