-- Puts a job that a worker holds back into the stream, or ends it if it was delivered too often.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 group, 2 worker, 3 entry id, 4 attempt, 5 job id, 6 '1' if this delivery counts,
--         7 deliveries allowed, 8 ending beyond them, 9 its lifetime in ms, 10 start of the reply
--         channel's name, 11 largest published ending in bytes
-- returns 2 ended, 1 queued again, 0 fenced: nothing changed
-- atomic  a crash between removing the old entry and adding the new one would lose the job, the
--         other order would run it twice

local job = redis.call('HMGET', KEYS[2], 'state', 'entry', 'attempt', 'worker', 'reply_to')
if job[1] ~= 'running' or job[2] ~= ARGV[3] or job[3] ~= ARGV[4] or job[4] ~= ARGV[2] then
  return 0
end
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then
  return 0
end
local attempt = tonumber(ARGV[4])
local counts = ARGV[6] == '1'
if counts and attempt >= tonumber(ARGV[7]) then
  commit(KEYS[1], ARGV[1], ARGV[3], KEYS[2], ARGV[5], '', ARGV[8], ARGV[9], ARGV[10] .. job[5], ARGV[11])
  return 2
end
requeue(KEYS[1], ARGV[1], ARGV[3], KEYS[2], ARGV[5], counts and attempt or attempt - 1)
return 1
