-- Forgets a dead letter, with all that was kept of it.
--
-- KEYS[1] record of the job
-- ARGV    1 tenant, 2 job id
-- returns 'forgotten', 'alive' it is no dead letter, 'unknown' there is no such job of the tenant
-- atomic  it must not be driven again in the same moment

local record, id, tenant = KEYS[1], ARGV[2], ARGV[1]
local job = redis.call('HMGET', record, 'tenant', 'dead', 'once')
if job[1] ~= tenant then
  return 'unknown'
end
if not job[2] then
  return 'alive'
end
for _, name in ipairs({'attempts:' .. id, 'out:' .. id, 'deliveries:' .. id, 'once:' .. tenant .. ':' .. (job[3] or '')}) do
  redis.call('DEL', sibling(record, name))
end
redis.call('ZREM', sibling(record, 'webhooks'), 'job:' .. id)
redis.call('ZREM', sibling(record, 'dead:' .. tenant), id)
redis.call('ZREM', sibling(record, 'listed:' .. tenant), id)
unretain(record, id, tenant)
redis.call('DEL', record)
return 'forgotten'
