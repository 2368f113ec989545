-- Puts a dead letter back into the queue.
--
-- KEYS[1] record of the job
-- ARGV    1 tenant, 2 job id, 3 payload, 4 how long to keep it once it has ended, in ms, 5 most jobs of the
--         tenant in line or running (0: as many as the fleet can run), 6 its weight, 7 most open jobs of it, 8 most
--         bytes of their payloads, 9 most open jobs of the shard
-- returns {'queued', 0}, {'alive', 0} it is no dead letter, {'unknown', 0} there is no such job of the tenant, or
--         {refusal, ms to wait} as `submit`: 'full', 'jobs' or 'bytes'; it stays a dead letter then
-- atomic  it must begin once, however often this is asked for

local record, id, tenant = KEYS[1], ARGV[2], ARGV[1]
local job = redis.call('HMGET', record, 'tenant', 'dead', 'priority', 'once')
if job[1] ~= tenant then
  return {'unknown', 0}
end
if not job[2] then
  return {'alive', 0}
end
local refusal, wait_ms = refuse_open(record, tenant, #ARGV[3], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]))
if refusal then
  return {refusal, wait_ms}
end
redis.call('PERSIST', record)
redis.call('HDEL', record, 'dead', 'result', 'summary', 'finished_us', 'ended_by', 'entry', 'worker',
  'started_us', 'counted', 'expires_ms', 'tries', 'unread_by', 'delivering', 'deliverer')
redis.call('HSET', record, 'state', 'queued', 'attempt', 0, 'payload', ARGV[3], 'keep_ms', ARGV[4],
  'bytes', #ARGV[3], 'queued_us', text(now_us()))
redis.call('ZREM', sibling(record, 'dead:' .. tenant), id)
-- What its webhook has not heard of its former end is not so any more.
redis.call('ZREM', sibling(record, 'webhooks'), 'job:' .. id)
unretain(record, id, tenant)
for _, name in ipairs({'attempts:' .. id, 'out:' .. id, 'deliveries:' .. id, 'once:' .. tenant .. ':' .. (job[4] or '')}) do
  redis.call('PEXPIRE', sibling(record, name), 3888000000)
end
count_open(record, tenant, 1, #ARGV[3])
redis.call('HSET', sibling(record, 'usage:' .. tenant), 'cap', ARGV[5], 'weight', ARGV[6])
enter(record, id, tenant, job[3])
return {'queued', 0}
