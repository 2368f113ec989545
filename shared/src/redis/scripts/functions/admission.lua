-- Functions for scripts that put jobs into the queue.

-- Whether as many jobs wait in a stream as may.
local function is_full(stream, limit)
  local length = redis.call('XLEN', stream)
  if length < limit then
    return false
  end
  -- The length counts running jobs too; only near the limit is it worth asking how many.
  local pending = redis.pcall('XPENDING', stream, GROUP)
  local running = pending.err == nil and pending[1] or 0
  return length - running >= limit
end

-- Checks a tenant's number of jobs and rate, and counts the job if it may pass. Returns nil and
-- whether it is among the counted, or the refusal and after how many ms to come back.
local function refuse(record, id, tenant, max_active, per_second)
  local active = sibling(record, 'active:' .. tenant)
  local count = max_active > 0 and redis.call('SCARD', active)
  if count and count >= max_active then
    return 'busy', 1000
  end
  if per_second > 0 then
    local rate = sibling(record, 'rate:' .. tenant)
    local now, interval = now_us(), math.floor(1000000 / per_second)
    -- The time at which the tenant will have used up what it may; one second ahead is allowed.
    local used_up = math.max(tonumber(redis.call('GET', rate) or '0'), now) + interval
    local wait = used_up - now - 1000000
    if wait > 0 then
      return 'rate', math.ceil(wait / 1000)
    end
    redis.call('SET', rate, text(used_up), 'PX', 2000)
  end
  if max_active > 0 then
    redis.call('SADD', active, id)
    if count == 0 then
      redis.call('ZADD', sibling(record, 'tenants'), 0, tenant)
    end
  end
  return nil, max_active > 0
end

-- Writes the record of a job that waits from now on, in one step: each one more would be one more to
-- replicate. `more` are further fields and their values, by turns; those without a value, which is '' or
-- false, are left out.
local function write_job(record, now, tenant, payload, reply_to, is_interactive, is_counted, more)
  local fields = {'state', 'queued', 'tenant', tenant, 'payload', payload, 'reply_to', reply_to,
    'attempt', '0', 'enqueued_us', now, 'queued_us', now}
  if is_interactive then
    fields[#fields + 1], fields[#fields + 2] = 'interactive', '1'
  end
  if is_counted then
    fields[#fields + 1], fields[#fields + 2] = 'counted', '1'
  end
  for index = 1, #more, 2 do
    local value = more[index + 1]
    if value and value ~= '' then
      fields[#fields + 1], fields[#fields + 2] = more[index], value
    end
  end
  redis.call('HSET', record, unpack(fields))
end

