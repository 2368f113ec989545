-- Cancels a batch: no item begins any more, and some of those in the queue are stopped; a call again stops more.
--
-- KEYS[1] record of the batch
-- ARGV    1 batch id, 2 tenant ('': the caller is a worker that cannot go on with it), 3 why, 4 most items to stop
-- returns 'finished' nothing of it runs any more, 'stopping' something may, 'uploading', 'unknown'
-- atomic  no item may begin between the look and the note

local record, id = KEYS[1], ARGV[1]
local it = redis.call('HMGET', record, 'state', 'tenant')
if not it[1] or (ARGV[2] ~= '' and it[2] ~= ARGV[2]) then
  return 'unknown'
end
local state, tenant = it[1], it[2]
if state == 'uploading' or state == 'finished' then
  return state
end
if state == 'running' then
  batches().stop(record, id, tenant, ARGV[3])
end
local open = sibling(record, 'batch-open:' .. id)
local page = redis.call('HSCAN', open, redis.call('HGET', record, 'checked') or '0', 'COUNT', ARGV[4])
local names = {}
for index = 1, #page[2], 2 do
  names[#names + 1] = page[2][index]
end
redis.call('HSET', record, 'checked', page[1])
batches().stop_items(record, names, ARGV[2] ~= '')
batches().finish_if_over(record, id, tenant)
return redis.call('HGET', record, 'state')
