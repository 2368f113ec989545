-- Removes a batch whose upload came to nothing.
--
-- KEYS[1] record of the batch
-- ARGV    1 batch id
-- returns 1 removed, 0 it is not being uploaded
-- atomic  it must not be sealed meanwhile

local it = redis.call('HMGET', KEYS[1], 'state', 'tenant')
if it[1] ~= 'uploading' then
  return 0
end
batches().remove(KEYS[1], ARGV[1], it[2])
return 1
