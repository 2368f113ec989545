-- What is due by now in a shard, some at a time.
--
-- KEYS[1] delayed jobs, KEYS[2] jobs that expire, KEYS[3] retained jobs, KEYS[4] backlogs,
--         KEYS[5] workers, KEYS[6] their slots, KEYS[7] webhooks to be told, KEYS[8] schedules
-- ARGV    1 most to do of each kind, 2 worker that does it ('': none), 3 jobs without labels that it can run at
--         once, 4 jobs with labels; then each placement whose jobs it can run
-- returns {the most that was done of one kind: as many as may be means that there is more, 1 if a webhook
--         is to be told, 1 if a schedule is to run, how many workers there are}
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

local placements = sibling(KEYS[6], 'placements')
local function slots_at(placement)
  return sibling(KEYS[6], 'slots:' .. placement)
end
local function count_slots(key, worker, slots)
  local before = tonumber(redis.call('HGET', key, worker) or '0')
  if slots ~= before then
    redis.call('HINCRBY', key, 'total', slots - before)
    redis.call('HSET', key, worker, slots)
  end
end
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[5], text(now_us() / 1000 + LEASE_MS), ARGV[2])
  count_slots(KEYS[6], ARGV[2], tonumber(ARGV[3]))
  for index = 5, #ARGV do
    if redis.call('ZSCORE', placements, ARGV[index]) then
      count_slots(slots_at(ARGV[index]), ARGV[2], tonumber(ARGV[4]))
    end
  end
end
for _, worker in ipairs(due(KEYS[5])) do
  redis.call('ZREM', KEYS[5], worker)
  count_slots(KEYS[6], worker, 0)
  redis.call('HDEL', KEYS[6], worker)
  for _, placement in ipairs(redis.call('ZRANGE', placements, 0, -1)) do
    if redis.call('HEXISTS', slots_at(placement), worker) == 1 then
      count_slots(slots_at(placement), worker, 0)
      redis.call('HDEL', slots_at(placement), worker)
    end
  end
end

-- Placements that nothing has stood in for a minute.
local unused_since = text(now_us() / 1000 - 60000)
for _, placement in ipairs(redis.call('ZRANGEBYSCORE', placements, '-inf', unused_since, 'LIMIT', 0, most)) do
  local streams, length = streams_of(placements, placement), 0
  for _, stream in ipairs(streams) do
    length = length + redis.call('XLEN', stream)
  end
  if length > 0 then
    redis.call('ZADD', placements, now_ms, placement)
  else
    redis.call('DEL', slots_at(placement), unpack(streams))
    redis.call('ZREM', placements, placement)
  end
end

-- The fleet may have grown, or a tenant's cap: then the end of no job lets the next one in.
for _, account in ipairs(redis.call('SRANDMEMBER', KEYS[4], most)) do
  local tenant, placement = string.match(account, '^([^:]*):?(.*)$')
  promote(KEYS[4], tenant, placement ~= '' and placement or nil)
  if redis.call('EXISTS', unpack(backlogs_of(KEYS[4], account))) == 0 then
    redis.call('SREM', KEYS[4], account)
  end
end
local function has_due(key)
  return #redis.call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, 1)
end
return {math.max(#delayed, #expired, #over), has_due(KEYS[7]), has_due(KEYS[8]), redis.call('ZCARD', KEYS[5])}
