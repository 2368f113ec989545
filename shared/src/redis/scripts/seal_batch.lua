-- Ends the upload of a batch: it is whole, and its items may begin.
--
-- KEYS[1] record of the batch
-- ARGV    1 batch id, 2 how long to keep it once it has ended, in ms, 3 terms of its items, 4 their priority,
--         which names their placement too ('': normal, without one), 5 failures after which it is stopped ('': never), 6 idempotency key ('': none),
--         7 what tells its request from others, 8 most jobs of the tenant in line or running (0: as many
--         as the fleet can run), 9 weight of the tenant, 10 most bytes of results that are kept of the
--         tenant, 11 its webhook as JSON ('': none)
-- returns {'sealed', ''} (also if it was already), {'repeated', batch} the key stands for that one and this
--         one is removed, {'mismatch', ''} the key came with another request, likewise, {'gone', ''}
-- atomic  two uploads with one key must become one batch; from here on its items are looked for

local record, id = KEYS[1], ARGV[1]
local it = redis.call('HMGET', record, 'state', 'tenant')
if not it[1] then
  return {'gone', ''}
end
local tenant = it[2]
if it[1] ~= 'uploading' then
  return {'sealed', ''}
end
local word, other = find_repeated(record, tenant, ARGV[6], ARGV[7])
if word then
  batches().remove(record, id, tenant)
  return {word, word == 'repeated' and other or ''}
end
redis.call('HSET', record, 'state', 'running', 'keep_ms', ARGV[2], 'terms', ARGV[3], 'next', 0, 'chunk', 0,
  'max_results', ARGV[10], 'sealed_us', text(now_us()))
if ARGV[4] ~= '' then
  redis.call('HSET', record, 'priority', ARGV[4])
end
if ARGV[5] ~= '' then
  redis.call('HSET', record, 'budget', ARGV[5])
end
if ARGV[11] ~= '' then
  redis.call('HSET', record, 'webhook', ARGV[11])
end
if ARGV[6] ~= '' then
  local key = sibling(record, 'once:' .. tenant .. ':' .. ARGV[6])
  redis.call('HSET', key, 'job', id, 'request', ARGV[7])
  redis.call('PEXPIRE', key, LONGEST_WAIT_MS)
  redis.call('HSET', record, 'once', ARGV[6])
end
local usage = sibling(record, 'usage:' .. tenant)
redis.call('HSET', usage, 'cap', ARGV[8], 'weight', ARGV[9])
redis.call('HINCRBY', usage, 'batches', 1)
redis.call('ZADD', sibling(record, 'tenants'), 0, tenant)
batches().look_after(record, id, tenant, 0)
batches().finish_if_over(record, id, tenant)
return {'sealed', ''}
