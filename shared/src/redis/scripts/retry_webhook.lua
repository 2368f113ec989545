-- Has a webhook told once more, or sooner than it would be.
--
-- KEYS[1] record of the job or batch, KEYS[2] webhooks to be told
-- ARGV    1 tenant, 2 name of the record, 3 number of the delivery
-- returns 'queued', 'underway' a worker is at it, 'unknown' there is no such delivery, 'outdated' it has
--         another end by now, or none
-- atomic  it must not be handed out in the same moment

local record = KEYS[1]
local it = redis.call('HMGET', record, 'tenant', 'delivery', 'webhook', 'deliverer', 'state')
local number, last = tonumber(ARGV[3]), tonumber(it[2] or '0')
if it[1] ~= ARGV[1] or not it[3] or number < 1 or number > last then
  return 'unknown'
end
if number < last or it[5] ~= 'finished' then
  return 'outdated'
end
local now_ms, due_ms = now_us() / 1000, tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]) or '0')
if it[4] and due_ms > now_ms then
  return 'underway'
end
redis.call('HDEL', record, 'deliverer')
redis.call('HSET', record, 'delivering', '1')
redis.call('ZADD', KEYS[2], text(now_ms), ARGV[2])
return 'queued'
