-- Turns the next items of a batch into jobs, as many as the queue has room for; without any, tells where it is.
--
-- KEYS[1] record of the batch, KEYS[2] its chunks
-- ARGV    1 batch id, 2 number of the first item, 3 number of the first item behind the chunk; then for each
--         item: job id, payload, the client's own name of it ('': none)
-- returns {state, next item, items, chunk that has it, room}; state is '' if there is no such batch
-- atomic  each item must become one job however many workers try, and die, at once: the number of the next
--         one moves in the same step

local record, id = KEYS[1], ARGV[1]
local it = redis.call('HMGET', record, 'state', 'tenant', 'next', 'items', 'chunk', 'max_results', 'terms', 'keep_ms',
  'priority')
if it[1] ~= 'running' then
  return {it[1] or '', 0, 0, 0, 0}
end
local tenant, next, items, chunk, priority = it[2], tonumber(it[3]), tonumber(it[4]), tonumber(it[5]), it[9]
local open = sibling(record, 'batch-open:' .. id)
local most = batches().most_open(record, tenant, placement_of(priority))
local room = math.max(0, most - redis.call('HLEN', open))
local results = tonumber(redis.call('HGET', sibling(record, 'batched:' .. tenant), 'results') or '0')
if results >= tonumber(it[6]) then
  -- They wait until somebody has read some.
  room = 0
end
local came = math.min(room, (#ARGV - 3) / 3)
if came > 0 and tonumber(ARGV[2]) == next then
  local now = text(now_us())
  for index = 1, came do
    local job, payload, name = ARGV[1 + 3 * index], ARGV[2 + 3 * index], ARGV[3 + 3 * index]
    local of_job = sibling(record, 'job:' .. job)
    write_job(of_job, now, tenant, payload, '', false, false,
      {'keep_ms', it[8], 'terms', it[7], 'batch', id, 'priority', priority, 'name', name})
    redis.call('HSET', open, job, next)
    enter(of_job, job, tenant, priority)
    next = next + 1
  end
  room = room - came
  if next == tonumber(ARGV[3]) then
    local bytes = redis.call('HSTRLEN', KEYS[2], chunk)
    redis.call('HDEL', KEYS[2], chunk)
    redis.call('HINCRBY', record, 'bytes', 0 - bytes)
    batches().account(record, tenant, 'bytes', 0 - bytes)
    chunk = next
  end
  redis.call('HSET', record, 'next', next, 'chunk', chunk)
  redis.call('ZADD', sibling(record, 'tenants'), 0, tenant)
end
redis.call('HSET', record, 'low', math.floor(most / 2))
return {'running', next, items, chunk, room}
