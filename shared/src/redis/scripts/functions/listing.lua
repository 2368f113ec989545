-- Functions for jobs that outlive their request: they are listed, and kept once they have ended.

-- Longest life of an idempotency key whose job does not end, in ms: 45 days.
local LONGEST_WAIT_MS = 3888000000

-- What an idempotency key stands for: nothing, 'repeated' and its job, or 'mismatch' if it came with
-- another request.
local function find_repeated(record, tenant, once, request)
  if once == '' then
    return nil
  end
  local found = redis.call('HMGET', sibling(record, 'once:' .. tenant .. ':' .. once), 'job', 'request')
  if not found[1] then
    return nil
  end
  if found[2] ~= request then
    return 'mismatch', '0'
  end
  return 'repeated', found[1]
end

-- Lists a job that was just written.
local function list(record, id, tenant, keep_ms, terms, once, request)
  redis.call('HSET', record, 'keep_ms', keep_ms, 'terms', terms)
  redis.call('ZADD', sibling(record, 'listed:' .. tenant), 0, id)
  if once ~= '' then
    local key = sibling(record, 'once:' .. tenant .. ':' .. once)
    redis.call('HSET', key, 'job', id, 'request', request)
    redis.call('PEXPIRE', key, LONGEST_WAIT_MS)
    redis.call('HSET', record, 'once', once)
  end
end

