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

-- Why a tenant may not have one more job listed: as many, or as much of them, is kept as may be.
local function refuse_to_keep(record, tenant, most, most_bytes)
  local listed = sibling(record, 'listed:' .. tenant)
  if redis.call('ZCARD', listed) >= most then
    return 'kept'
  end
  if tonumber(redis.call('GET', sibling(record, 'kept:' .. tenant)) or '0') >= most_bytes then
    return 'kept_bytes'
  end
end

-- Remembers for which job an idempotency key stands.
local function remember(record, id, tenant, once, request)
  if once ~= '' then
    local key = sibling(record, 'once:' .. tenant .. ':' .. once)
    redis.call('HSET', key, 'job', id, 'request', request)
    redis.call('PEXPIRE', key, LONGEST_WAIT_MS)
  end
end

-- Lists a job that was just written.
local function list(record, id, tenant, once, request)
  redis.call('ZADD', sibling(record, 'listed:' .. tenant), '0', id)
  redis.call('ZADD', sibling(record, 'tenants'), '0', tenant)
  remember(record, id, tenant, once, request)
end

