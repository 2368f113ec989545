-- Where a batch stands.
--
-- KEYS[1] record of the batch
-- ARGV    1 batch id, 2 tenant; then the fields to read
-- returns {fields, items in the queue, those of them that run, the slots of the workers that read
--         where its items stand, bytes of the tenant's results}; {} if there is no such batch of the tenant
-- atomic  its numbers must be those of one moment

local record = KEYS[1]
local it = redis.call('HMGET', record, 'tenant', 'priority')
local tenant = it[1]
if tenant ~= ARGV[2] then
  return {}
end
local names, running = redis.call('HKEYS', sibling(record, 'batch-open:' .. ARGV[1])), 0
for _, name in ipairs(names) do
  if redis.call('HGET', sibling(record, 'job:' .. name), 'state') == 'running' then
    running = running + 1
  end
end
local slots = slots_of(record, placement_of(it[2]))
local results = redis.call('HGET', sibling(record, 'batched:' .. tenant), 'results') or '0'
return {redis.call('HMGET', record, unpack(ARGV, 3)), #names, running, slots, tonumber(results)}
