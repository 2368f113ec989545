-- Writes down a schedule. Where its tenant has as many as may be, the oldest one that is over makes way.
--
-- KEYS[1] schedule, KEYS[2] schedules of the tenant, KEYS[3] schedules by when they are due, KEYS[4] tenants
-- ARGV    1 schedule id, 2 tenant, 3 most schedules of the tenant, 4 what it says of itself, as JSON,
--         5 payload of its jobs, 6 their terms, 7 their webhook ('': none), 8 when it is first due, in ms
--         since the epoch ('': never), 9 '1' if it is enabled
-- returns 'made' (also if it was already), 'full' the tenant has as many as it may
-- atomic  the limit must hold against concurrent calls; a schedule that is due nowhere would never run

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'made'
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then
  local over
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if not over and redis.call('HGET', sibling(KEYS[1], 'schedule:' .. id), 'next_ms') == '' then
      over = id
    end
  end
  if not over then
    return 'full'
  end
  redis.call('DEL', sibling(KEYS[1], 'schedule:' .. over), sibling(KEYS[1], 'runs:' .. over))
  redis.call('ZREM', KEYS[2], over)
end
redis.call('HSET', KEYS[1], 'tenant', ARGV[2], 'facts', ARGV[4], 'payload', ARGV[5], 'terms', ARGV[6],
  'next_ms', ARGV[8], 'created_us', text(now_us()))
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[1], 'webhook', ARGV[7])
end
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('ZADD', KEYS[4], 0, ARGV[2])
if ARGV[9] == '1' then
  redis.call('HSET', KEYS[1], 'enabled', '1')
  if ARGV[8] ~= '' then
    redis.call('ZADD', KEYS[3], ARGV[8], ARGV[1])
  end
end
return 'made'
