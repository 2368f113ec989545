-- Begins the upload of a batch. Nothing of it runs before it is sealed; without a sign of life it is removed.
--
-- KEYS[1] record of the batch, KEYS[2] batches of the tenant
-- ARGV    1 batch id, 2 tenant, 3 most batches that are kept of the tenant, 4 its requests per second
--         (0: any), 5 how long a silent upload is kept, in ms, 6 terms of its items
-- returns {'open', 0} (also if it was already), or {refusal, ms to wait}: 'batches' as many are kept,
--         'rate' the tenant's rate
-- atomic  the limit must hold against concurrent calls; a record that nobody tends would stay for ever

if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'open', 0}
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then
  return {'batches', 60000}
end
local refusal, wait_ms = refuse(KEYS[1], ARGV[1], ARGV[2], 0, tonumber(ARGV[4]))
if refusal then
  return {refusal, wait_ms}
end
redis.call('HSET', KEYS[1], 'state', 'uploading', 'tenant', ARGV[2], 'items', 0, 'bytes', 0,
  'created_us', text(now_us()), 'terms', ARGV[6])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
batches().look_after(KEYS[1], ARGV[1], ARGV[2], ARGV[5])
return {'open', 0}
