-- Looks whether jobs are where their records say and counters count what there is, tenant by tenant and
-- some at a time, and puts right what is not. One worker at a time does it, and another goes on where it
-- does not for a moment: in a large fleet each comes by rarely.
--
-- KEYS[1] how far it has come, and who does it, KEYS[2] tenants
-- ARGV    1 worker, 2 about how many jobs to look at
-- returns for each thing that was put right {what, whose}
-- atomic  between two steps every job is in one place, and every counter right

-- For how long a worker has the others pass by, in ms; a little less than they take turns in.
local TURN_MS = 400

local now_ms, left = now_us() / 1000, tonumber(ARGV[2])
local it = redis.call('HMGET', KEYS[1], 'worker', 'until_ms', 'tenant', 'cursor')
if it[1] and it[1] ~= ARGV[1] and tonumber(it[2]) > now_ms then
  return {}
end
local tenant, cursor = it[3] or '', it[4] or '0'

local repaired = {}
local function note(what, whose)
  repaired[#repaired + 1] = {what, whose}
end

-- A delivery that is due nowhere would never be made.
local function check_webhook(record, name, id)
  if redis.call('HGET', record, 'delivering')
      and redis.call('ZADD', sibling(record, 'webhooks'), 'NX', text(now_us() / 1000), name) == 1 then
    note('webhook', id)
  end
end

local function check_finished(record, id, job, kept_bytes, finished_us)
  local name = job.tenant .. ':' .. id .. ':' .. kept_bytes
  local is_retained = redis.call('ZSCORE', sibling(record, 'retained'), name)
  if not is_retained then
    redis.call('ZADD', sibling(record, 'retained'), text(finished_us / 1000 + job.keep_ms), name)
    note('retained', id)
  end
  if job.webhook then
    check_webhook(record, 'job:' .. id, id)
  end
end

local function check_job(record, id)
  local job = read_job(record)
  local more = redis.call('HMGET', record, 'due_ms', 'backlogged', 'expires_ms', 'tries', 'kept_bytes', 'finished_us')
  if job.state == 'finished' then
    if job.keep_ms and more[5] then
      check_finished(record, id, job, more[5], more[6])
    end
    return
  end
  if job.counted and count_in(record, id, job.tenant, placement_of(job.priority)) == 1 then
    note('counted', id)
  end
  if job.state == 'running' then
    if repair_running(record, id, job) then
      note('running', id)
    end
  elseif job.state == 'queued' then
    local may_expire = more[3] and job.attempt == '0' and not more[4]
    if may_expire and redis.call('ZADD', sibling(record, 'expiring'), 'NX', more[3], id) == 1 then
      note('expiring', id)
    end
    if repair_queued(record, id, job, more[1], more[2]) then
      note('queued', id)
    end
  end
end

-- Whether a job is among those that are in line or running.
local function is_counted(key, id)
  local job = redis.call('HMGET', sibling(key, 'job:' .. id), 'state', 'counted')
  return job[1] and job[1] ~= 'finished' and job[2]
end

local function check_placed(key, tenant)
  local all = sibling(key, 'placed:' .. tenant)
  if redis.call('EXISTS', all) == 0 then
    return
  end
  local sets = {all}
  for _, placement in ipairs(redis.call('ZRANGE', sibling(key, 'placements'), 0, -1)) do
    sets[#sets + 1] = sibling(key, 'placed:' .. account_of(tenant, placement))
    promote(key, tenant, placement)
  end
  for _, set in ipairs(sets) do
    for _, id in ipairs(redis.call('SRANDMEMBER', set, 50)) do
      if not is_counted(key, id) then
        redis.call('SREM', set, id)
        note('placed', id)
      end
    end
  end
end

local function check_active(tenant)
  local active = sibling(KEYS[1], 'active:' .. tenant)
  for _, id in ipairs(redis.call('SRANDMEMBER', active, 50)) do
    if not is_counted(active, id) then
      redis.call('SREM', active, id)
      note('active', id)
    end
  end
  check_placed(active, tenant)
  promote(active, tenant)
end

-- Counts a tenant's listed jobs anew, unless there are very many.
local function check_counters(tenant)
  local key = KEYS[1]
  local listed = sibling(key, 'listed:' .. tenant)
  if redis.call('ZCARD', listed) > 1000 then
    return
  end
  local jobs, bytes, kept = 0, 0, 0
  for _, id in ipairs(redis.call('ZRANGE', listed, 0, -1)) do
    local job = redis.call('HMGET', sibling(key, 'job:' .. id), 'state', 'bytes', 'kept_bytes')
    if not job[1] then
      -- It has gone just now, and what was kept of it counts until house is kept.
      return
    end
    if job[1] ~= 'finished' and job[2] then
      jobs, bytes = jobs + 1, bytes + job[2]
    end
    kept = kept + (job[3] or 0)
  end
  local usage, all = sibling(key, 'usage:' .. tenant), sibling(key, 'usage')
  local before = redis.call('HMGET', usage, 'jobs', 'bytes')
  local more_jobs, more_bytes = jobs - (before[1] or 0), bytes - (before[2] or 0)
  if more_jobs ~= 0 or more_bytes ~= 0 then
    for _, counter in ipairs({usage, all}) do
      redis.call('HINCRBY', counter, 'jobs', more_jobs)
      redis.call('HINCRBY', counter, 'bytes', more_bytes)
    end
    if jobs == 0 and redis.call('HEXISTS', usage, 'batches') == 0 then
      redis.call('DEL', usage)
    end
    note('usage', tenant)
  end
  local more_kept = kept - (redis.call('GET', sibling(key, 'kept:' .. tenant)) or 0)
  if more_kept ~= 0 then
    keep_bytes(key, tenant, more_kept)
    note('kept', tenant)
  end
end

-- Schedules that are due nowhere would never run again; there are few of a tenant.
local function check_schedules(tenant)
  for _, id in ipairs(redis.call('ZRANGE', sibling(KEYS[1], 'schedules:' .. tenant), 0, -1)) do
    local schedule = redis.call('HMGET', sibling(KEYS[1], 'schedule:' .. id), 'enabled', 'next_ms')
    local is_due = schedule[1] and schedule[2] and schedule[2] ~= ''
    if is_due and redis.call('ZADD', sibling(KEYS[1], 'scheduled'), 'NX', schedule[2], id) == 1 then
      note('schedule', id)
    end
  end
end

-- There are few of a tenant, too. Those that run are looked at as they are advanced.
local function check_batches(tenant)
  for _, id in ipairs(redis.call('ZRANGE', sibling(KEYS[1], 'batches:' .. tenant), 0, -1)) do
    check_webhook(sibling(KEYS[1], 'batch:' .. id), 'batch:' .. id, id)
  end
end

repeat
  if tenant ~= '' then
    local page = redis.call('ZSCAN', sibling(KEYS[1], 'listed:' .. tenant), cursor, 'COUNT', left)
    cursor = page[1]
    for index = 1, #page[2], 2 do
      check_job(sibling(KEYS[1], 'job:' .. page[2][index]), page[2][index])
    end
    left = left - #page[2] / 2
  end
  if cursor == '0' then
    if tenant ~= '' then
      check_active(tenant)
      check_counters(tenant)
      check_schedules(tenant)
      check_batches(tenant)
      left = left - 10
      if redis.call('EXISTS', sibling(KEYS[1], 'listed:' .. tenant), sibling(KEYS[1], 'active:' .. tenant),
          sibling(KEYS[1], 'schedules:' .. tenant), sibling(KEYS[1], 'batches:' .. tenant)) == 0 then
        redis.call('ZREM', KEYS[2], tenant)
      end
    end
    local next = redis.call('ZRANGEBYLEX', KEYS[2], '(' .. tenant, '+', 'LIMIT', 0, 1)
    tenant = next[1] or ''
  end
until left <= 0 or tenant == ''
redis.call('HSET', KEYS[1], 'worker', ARGV[1], 'until_ms', text(now_ms + TURN_MS), 'tenant', tenant, 'cursor', cursor)
redis.call('PEXPIRE', KEYS[1], 86400000)
return repaired
