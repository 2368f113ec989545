-- Removes a consumer that holds nothing.
--
-- KEYS[1] stream
-- ARGV    1 consumer
-- returns 1 removed, or was not there; 0 it still holds jobs, which removing it would lose
-- atomic  an entry may be delivered to the consumer between the check and the removal

local pending = redis.pcall('XPENDING', KEYS[1], GROUP, '-', '+', 1, ARGV[1])
if pending.err ~= nil then
  return 1
end
if #pending > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[1])
return 1
