-- Adds a gateway to those that hear of a job.
--
-- KEYS[1] record of the job
-- ARGV    1 tenant, 2 gateway, 3 most gateways that hear of one job
-- returns 'queued', 'running' or 'finished' (then it hears nothing more); 'unknown' if there is no
--         such job of the tenant
-- atomic  a job that ends between the look and the note would end unheard

local job = redis.call('HMGET', KEYS[1], 'tenant', 'state', 'reply_to')
if not job[2] or job[1] ~= ARGV[1] then
  return 'unknown'
end
if job[2] == 'finished' then
  return job[2]
end
local others = {}
for gateway in string.gmatch(job[3], '%S+') do
  if gateway == ARGV[2] then
    return job[2]
  end
  others[#others + 1] = gateway
end
-- The oldest may be gone for long; one that is not finds out by looking.
local first = math.max(1, #others - tonumber(ARGV[3]) + 2)
others[#others + 1] = ARGV[2]
redis.call('HSET', KEYS[1], 'reply_to', table.concat(others, ' ', first))
return job[2]
