-- wrk script: POST a file's bytes. wrk ... -s post.lua URL -- FILE [HEADER VALUE]...
-- The last line of the output is a summary in JSON, for loadtests/bench/clients.py.
function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    local headers = {}
    for i = 2, #arguments - 1, 2 do headers[arguments[i]] = arguments[i + 1] end
    request_bytes = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
end

function request()
    return request_bytes
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('{"requests": %d, "failed": %d, "seconds": %.6f, "p99_ms": %.3f}\n',
        summary.requests, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        summary.duration / 1e6, latency:percentile(99) / 1e3))
end
