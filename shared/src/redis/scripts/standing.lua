-- Why a job waits, and how many are before it.
--
-- KEYS[1] record of the job
-- ARGV    1 tenant, 2 most jobs to count
-- returns {'time', 0}, {'tenant', place in the tenant's backlog, about}, {'line', place in its stream, as far as
--         was counted}, each followed by the slots of the workers that read
--         its line and how long a job takes, in us; {} if it does
--         not wait
-- atomic  it must not move between the looks

-- How many jobs of each priority begin in a round.
local SHARES = {high = 5, normal = 2, low = 1}

-- The slots of the workers that read its line, but for those that are silent: where no worker is left, nobody
-- keeps house, and they stay counted.
local function slots_left(key, placement)
  local slots = slots_of(key, placement)
  local now_ms = text(now_us() / 1000)
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', sibling(key, 'workers'), '-inf', now_ms, 'LIMIT', 0, 256)) do
    slots = slots - (redis.call('HGET', sibling(key, placement and 'slots:' .. placement or 'slots'), worker) or 0)
  end
  return math.max(0, slots)
end

-- Where in its tenant's backlogs a job stands: behind those of its priority that came before it, and those of
-- others whose turn comes before.
local function place_of(key, account, priority, id)
  local own = string.match(priority or '', '^%a+') or 'normal'
  local place = (redis.call('ZRANK', backlog_of(key, account, own), id) or 0) + 1
  local rounds = place / SHARES[own]
  for other, share in pairs(SHARES) do
    if other ~= own then
      local before = math.floor(rounds * share)
      place = place + math.min(before, redis.call('ZCARD', backlog_of(key, account, other)))
    end
  end
  return place
end

local job = redis.call('HMGET', KEYS[1], 'state', 'due_ms', 'backlogged', 'entry', 'priority', 'tenant')
if job[1] ~= 'queued' or job[6] ~= ARGV[1] then
  return {}
end
local placement = placement_of(job[5])
local slots = slots_left(KEYS[1], placement)
local mean_us = math.floor(tonumber(redis.call('HGET', sibling(KEYS[1], 'usage'), 'mean_us') or '0'))
if job[2] then
  return {'time', 0, slots, mean_us}
end
if job[3] then
  local id = string.match(KEYS[1], '[^:]*$')
  return {'tenant', place_of(KEYS[1], account_of(job[6], placement), job[5], id), slots, mean_us}
end
if not job[4] then
  return {}
end
local stream = stream_of(KEYS[1], job[5])
local before = redis.call('XRANGE', stream, '(' .. last_delivered(stream), job[4], 'COUNT', ARGV[2])
return {'line', math.max(1, #before), slots, mean_us}
