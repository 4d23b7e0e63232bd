-- wrk script: POST random bodies to random models, and count where each answer came from.
-- wrk ... -s arms.lua URL -- BODIES MODELS KEYS: a file with a JSON body a line; names with commas; 0: no key, else x-user-id of so many.
-- The last line of the output is a summary in JSON, for loadtests/rollout/load.py.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } hr_time; int clock_gettime(int, hr_time*);")
local now = ffi.new("hr_time")
local threads = {}

function setup(thread)
    thread:set("seed", #threads + 1)
    threads[#threads + 1] = thread
end

function init(arguments)
    math.randomseed(seed)
    n_keys = tonumber(arguments[3])
    heads, bodies = {}, {}
    for name in arguments[2]:gmatch("[^,]+") do
        heads[#heads + 1] = "POST /v2/models/" .. name .. "/infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    end
    for line in io.lines(arguments[1]) do bodies[#bodies + 1] = "Content-Length: " .. #line .. "\r\n\r\n" .. line end
    counts, lasts = {}, {}        -- flat: wrk crashes when it copies nested tables out of a thread
end

function request()
    local head = heads[math.random(#heads)]
    if n_keys > 0 then head = head .. "x-user-id: user-" .. math.random(n_keys) .. "\r\n" end
    return head .. bodies[math.random(#bodies)]
end

-- By generation, version and status: how many, and when the last one came (us of CLOCK_REALTIME).
function response(status, headers)
    local generation = headers["x-headrace-generation"] or "-1"
    local key = generation .. " " .. (headers["x-headrace-version"] or "?") .. " " .. status
    ffi.C.clock_gettime(0, now)
    counts[key] = (counts[key] or 0) + 1
    lasts[key] = tonumber(now.s) * 1e6 + tonumber(now.ns) / 1e3
end

function done(summary, latency, requests)
    local parts, errors = {}, summary.errors
    for _, thread in ipairs(threads) do
        local lasts = thread:get("lasts")
        for key, count in pairs(thread:get("counts")) do
            parts[#parts + 1] = string.format('["%s", %d, %.0f]', key, count, lasts[key])
        end
    end
    io.write(string.format('{"requests": %d, "failed": %d, "status": %d, "seconds": %.6f, "p99_ms": %.3f, "answers": [%s]}\n',
        summary.requests, errors.connect + errors.read + errors.write + errors.timeout, errors.status, summary.duration / 1e6,
        latency:percentile(99) / 1e3, table.concat(parts, ", ")))
end
