-- Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
--
-- Requests at a steady rate, with keys that are given or made up:
--
--     wrk -s paced.lua … URL -- RATE PATH KEYS
--
-- RATE is of each thread, a second; 0: as fast as they are answered. KEYS is a
-- file with a key a line, which are used in turn; or "new:PREFIX", for a new
-- key each time: PREFIX, thread and number, with "-" between. At the end comes
-- a line of JSON: how many answers there were by status, how long they took in
-- microseconds (p50, p99, max), and how many failed.
--
-- A request's time comes by the clock, and who is late catches up, so a server
-- gets as many whether it holds some of them up or not, as long as there are
-- connections left. wrk calls delay() before each request().

local ffi = require("ffi")
ffi.cdef[[
typedef struct { long s, ns; } ue_time_t;
int clock_gettime(int, ue_time_t *);
]]
local clock = ffi.new("ue_time_t")
local all = {}

local function now()
    ffi.C.clock_gettime(1, clock)
    return tonumber(clock.s) * 1000 + tonumber(clock.ns) / 1e6
end

function setup(thread)
    all[#all + 1] = thread
    thread:set("number", #all)
end

function init(args)
    rate, path = tonumber(args[1]), args[2]
    prefix = args[3]:match("^new:(.*)$")
    keys, made, codes = {}, 0, ""
    if not prefix then
        for line in io.lines(args[3]) do
            keys[#keys + 1] = line
        end
        made = number * 7919 -- not all threads the same at once
    end
end

function delay()
    if rate == 0 then
        return 0
    end
    due = (due or now()) + 1000 / rate
    return math.max(0, due - now())
end

function request()
    made = made + 1
    local key = prefix and (prefix .. "-" .. number .. "-" .. made)
        or keys[made % #keys + 1]
    return wrk.format("GET", path, { ["Host"] = "gateway.test",
                                     ["Authorization"] = "Bearer " .. key })
end

function response(status)
    local name = "answers" .. status
    if not _G[name] then
        codes = codes .. status .. " "
    end
    _G[name] = (_G[name] or 0) + 1
end

function done(summary, latency)
    local sum, text = {}, {}
    for _, thread in ipairs(all) do
        for code in thread:get("codes"):gmatch("%d+") do
            sum[code] = (sum[code] or 0) + thread:get("answers" .. code)
        end
    end
    for code, n in pairs(sum) do
        text[#text + 1] = string.format('"%s": %d', code, n)
    end
    local e = summary.errors
    print(string.format(
        '{"status": {%s}, "p50": %d, "p99": %d, "max": %d, "failed": %d}',
        table.concat(text, ", "), latency:percentile(50),
        latency:percentile(99), latency.max,
        e.connect + e.read + e.write + e.timeout))
end
