-- Pauses, resumes or removes a schedule. Jobs that it has submitted go on.
--
-- KEYS[1] schedule, KEYS[2] schedules of the tenant, KEYS[3] schedules by when they are due, KEYS[4] its runs
-- ARGV    1 schedule id, 2 tenant, 3 'pause', 'resume' or 'remove', 4 when it is due next if it is resumed, in
--         ms since the epoch ('': never)
-- returns 1 done, 0 there is no such schedule of the tenant
-- atomic  it must not run in the same moment

if redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[2] then
  return 0
end
if ARGV[3] == 'resume' then
  -- One that was not paused stays as it is: what it has missed is not forgotten.
  if redis.call('HSETNX', KEYS[1], 'enabled', '1') == 1 then
    redis.call('HSET', KEYS[1], 'next_ms', ARGV[4])
    if ARGV[4] ~= '' then
      redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
    end
  end
  return 1
end
redis.call('ZREM', KEYS[3], ARGV[1])
if ARGV[3] == 'pause' then
  redis.call('HDEL', KEYS[1], 'enabled')
else
  redis.call('DEL', KEYS[1], KEYS[4])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 1
