-- Publishes output of a running job, and keeps it for readers that missed the message.
--
-- KEYS[1] record of the job, KEYS[2] its output
-- ARGV    1 worker, 2 attempt, 3 job id, 4 lifetime of the output in ms, 5 events kept, 6 number of
--         the first event; then the events
-- returns 1 published (those that were before are not again), 0 fenced: nothing changed
-- atomic  a worker that lost the job must not write into the output of its successor

local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt', 'reply_to', 'shown')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or job[3] ~= ARGV[2] then
  return 0
end
if not job[5] then
  -- From here on a second attempt would show its output twice.
  redis.call('HSET', KEYS[1], 'shown', '1')
end
-- Event n is entry n + 1; repeated calls must not store one twice.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local stored = last and tonumber(string.match(last[1], '^%d+')) or 0
for index = 7, #ARGV do
  local number = tonumber(ARGV[6]) + index - 7
  if number >= stored then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], text(number + 1) .. '-0', 'e', ARGV[index])
    tell(job[4], ARGV[3] .. ' ~' .. text(number) .. ' ' .. ARGV[index])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
