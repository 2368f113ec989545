-- Reads the input that waits for a running job. It stays where it is until the worker removes it.
--
-- KEYS[1] record of the job, KEYS[2] its input
-- ARGV    1 tenant
-- returns the entries, as XRANGE does
-- atomic  a job whose input was taken must not be started again: its successor would miss it

local job = redis.call('HMGET', KEYS[1], 'state', 'tenant', 'shown')
if job[1] ~= 'running' or job[2] ~= ARGV[1] then
  return {}
end
local waiting = redis.call('XRANGE', KEYS[2], '-', '+')
if #waiting > 0 and not job[3] then
  redis.call('HSET', KEYS[1], 'shown', '1')
end
return waiting
