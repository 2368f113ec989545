-- What is due by now in a shard, some at a time.
--
-- KEYS[1] delayed jobs, KEYS[2] jobs that expire, KEYS[3] retained jobs, KEYS[4] tenants with a backlog,
--         KEYS[5] workers, KEYS[6] their slots, KEYS[7] webhooks to be told, KEYS[8] schedules
-- ARGV    1 most to do of each kind, 2 worker that does it ('': none), 3 jobs it can run at once
-- returns {the most that was done of one kind: as many as may be means that there is more, 1 if a webhook
--         is to be told, 1 if a schedule is to run}
-- atomic  workers do this side by side, and a job must be in one place at a time

local now_ms, most = text(now_us() / 1000), tonumber(ARGV[1])
local function due(key)
  return redis.call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, most)
end

local delayed = due(KEYS[1])
for _, id in ipairs(delayed) do
  local record = sibling(KEYS[1], 'job:' .. id)
  local job = redis.call('HMGET', record, 'state', 'priority', 'due_ms', 'tenant')
  redis.call('ZREM', KEYS[1], id)
  if job[1] == 'queued' and job[3] then
    redis.call('HDEL', record, 'due_ms')
    enter(record, id, job[4], job[2])
  end
end

local expired = due(KEYS[2])
for _, id in ipairs(expired) do
  local record = sibling(KEYS[2], 'job:' .. id)
  local job = read_job(record)
  redis.call('ZREM', KEYS[2], id)
  if job.state == 'queued' then
    settle(record, id, job, '', EXPIRED)
  end
end

local over = due(KEYS[3])
for _, name in ipairs(over) do
  local tenant, id, bytes = string.match(name, '^([^:]*):([^:]*):?(%d*)$')
  redis.call('ZREM', sibling(KEYS[3], 'listed:' .. tenant), id)
  redis.call('ZREM', sibling(KEYS[3], 'dead:' .. tenant), id)
  redis.call('ZREM', KEYS[3], name)
  keep_bytes(KEYS[3], tenant, -(tonumber(bytes) or 0))
end

local function count_slots(worker, slots)
  local before = tonumber(redis.call('HGET', KEYS[6], worker) or '0')
  if slots ~= before then
    redis.call('HINCRBY', KEYS[6], 'total', slots - before)
    redis.call('HSET', KEYS[6], worker, slots)
  end
end
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[5], text(now_us() / 1000 + LEASE_MS), ARGV[2])
  count_slots(ARGV[2], tonumber(ARGV[3]))
end
for _, worker in ipairs(due(KEYS[5])) do
  redis.call('ZREM', KEYS[5], worker)
  count_slots(worker, 0)
  redis.call('HDEL', KEYS[6], worker)
end

-- The fleet may have grown, or a tenant's cap: then the end of no job lets the next one in.
for _, tenant in ipairs(redis.call('SRANDMEMBER', KEYS[4], most)) do
  promote(KEYS[4], tenant)
  if redis.call('EXISTS', sibling(KEYS[4], 'backlog:' .. tenant)) == 0 then
    redis.call('SREM', KEYS[4], tenant)
  end
end
local function has_due(key)
  return #redis.call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, 1)
end
return {math.max(#delayed, #expired, #over), has_due(KEYS[7]), has_due(KEYS[8])}
