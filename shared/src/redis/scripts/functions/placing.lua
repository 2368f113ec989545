-- Functions for listed jobs that wait, or that are tried again.

-- How long a job waits, in ms, where there are as many placements as may be, until it is looked again.
local CROWDED_MS = 5000

-- Has a job wait until a moment, in ms since the epoch. Meanwhile it is in nobody's way.
local function delay(record, id, tenant, due_ms)
  redis.call('ZADD', sibling(record, 'delayed'), text(due_ms), id)
  redis.call('HSET', record, 'due_ms', text(due_ms))
  if redis.call('HDEL', record, 'counted') == 1 then
    local placement = placement_of(redis.call('HGET', record, 'priority'))
    count_out(record, id, tenant, placement)
    promote(record, tenant, placement)
  end
end

-- Has a job stand in line, unless others of its tenant wait, or it has as many there as it may. Returns its
-- entry, or nil and whether it is the first to wait.
local function try_line(record, id, tenant, priority, placement)
  -- While others wait there is no room: whoever makes some lets them in.
  if redis.call('EXISTS', unpack(backlogs_of(record, account_of(tenant, placement)))) > 0 then
    return nil, false
  end
  if room_of(record, tenant, placement) <= 0 then
    return nil, true
  end
  count_in(record, id, tenant, placement)
  return line_up(record, id, priority)
end

-- Has a job stand in line, or, if its tenant has as many there as it may, wait in the tenant's backlog.
local function enter(record, id, tenant, priority)
  local placement = placement_of(priority)
  if placement and not has_lines(record, placement) then
    delay(record, id, tenant, now_us() / 1000 + CROWDED_MS)
    return
  end
  local entry, is_first = try_line(record, id, tenant, priority, placement)
  if entry then
    redis.call('HSET', record, 'counted', '1', 'entry', entry)
    return
  end
  local account = account_of(tenant, placement)
  redis.call('ZADD', backlog_of(record, account, priority), text(now_us()), id)
  redis.call('HSET', record, 'backlogged', '1')
  if is_first then
    redis.call('SADD', sibling(record, 'backlogs'), account)
  end
end

-- Counts open jobs of a tenant, and what their payloads take; the record of each says that as `bytes`.
local function count_open(record, tenant, jobs, bytes)
  for _, usage in ipairs({sibling(record, 'usage:' .. tenant), sibling(record, 'usage')}) do
    redis.call('HINCRBY', usage, 'jobs', jobs)
    redis.call('HINCRBY', usage, 'bytes', bytes)
  end
end

-- Why a tenant may not have one more open job, whose payload takes so many bytes; and after how many ms to
-- come back. The limits are those of its jobs, of their bytes, and of all jobs of the shard.
local function refuse_open(record, tenant, bytes, most, most_bytes, most_of_shard)
  local open = redis.call('HMGET', sibling(record, 'usage:' .. tenant), 'jobs', 'bytes')
  if tonumber(open[1] or '0') >= most then
    return 'jobs', 1000
  end
  if tonumber(open[2] or '0') + bytes > most_bytes then
    return 'bytes', 1000
  end
  if tonumber(redis.call('HGET', sibling(record, 'usage'), 'jobs') or '0') >= most_of_shard then
    return 'full', 1000
  end
end

