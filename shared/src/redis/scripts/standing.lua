-- Why a job waits, and how many are before it.
--
-- KEYS[1] record of the job
-- ARGV    1 tenant, 2 most jobs to count
-- returns {'time', 0}, {'tenant', place in the tenant's backlog}, {'line', place in its stream, as far as
--         was counted}, each followed by the slots of the workers that read
--         its line and how long a job takes, in us; {} if it does
--         not wait
-- atomic  it must not move between the looks

local job = redis.call('HMGET', KEYS[1], 'state', 'due_ms', 'backlogged', 'entry', 'priority', 'tenant')
if job[1] ~= 'queued' or job[6] ~= ARGV[1] then
  return {}
end
local placement = placement_of(job[5])
local slots = slots_of(KEYS[1], placement)
local mean_us = math.floor(tonumber(redis.call('HGET', sibling(KEYS[1], 'usage'), 'mean_us') or '0'))
if job[2] then
  return {'time', 0, slots, mean_us}
end
if job[3] then
  local id = string.match(KEYS[1], '[^:]*$')
  local rank = redis.call('ZRANK', sibling(KEYS[1], 'backlog:' .. account_of(job[6], placement)), id) or 0
  return {'tenant', rank + 1, slots, mean_us}
end
if not job[4] then
  return {}
end
local stream = stream_of(KEYS[1], job[5])
local before = redis.call('XRANGE', stream, '(' .. last_delivered(stream), job[4], 'COUNT', ARGV[2])
return {'line', math.max(1, #before), slots, mean_us}
