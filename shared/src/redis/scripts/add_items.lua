-- Adds a chunk of items to a batch that is being uploaded; without one, a sign of life.
--
-- KEYS[1] record of the batch, KEYS[2] its chunks
-- ARGV    1 batch id, 2 number of the first item, 3 how many items, 4 chunk, 5 the job that all items are
--         told from ('': it is there already), 6 most bytes of items of the tenant, 7 how long a silent
--         upload is kept, in ms
-- returns 'added' (also if it was already), 'bytes' there is no room for more items of the tenant, 'gone' it
--         is not being uploaded any more
-- atomic  the limit must hold, and the number of items tell what is there

local it = redis.call('HMGET', KEYS[1], 'state', 'items', 'tenant')
if it[1] ~= 'uploading' then
  return 'gone'
end
batches().look_after(KEYS[1], ARGV[1], it[3], ARGV[7])
local first, count = tonumber(ARGV[2]), tonumber(ARGV[3])
if count == 0 or tonumber(it[2]) == first + count then
  return 'added'
end
if tonumber(it[2]) ~= first then
  return 'gone'
end
local bytes = #ARGV[4] + #ARGV[5]
local held = tonumber(redis.call('HGET', sibling(KEYS[1], 'batched:' .. it[3]), 'bytes') or '0')
if held + bytes > tonumber(ARGV[6]) then
  return 'bytes'
end
redis.call('HSET', KEYS[2], first, ARGV[4])
redis.call('HSET', KEYS[1], 'items', first + count)
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'base', ARGV[5])
end
redis.call('HINCRBY', KEYS[1], 'bytes', bytes)
batches().account(KEYS[1], it[3], 'bytes', bytes)
return 'added'
