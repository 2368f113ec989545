-- Commits the ending of a job, if the worker still holds this delivery of it.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 group, 2 worker, 3 entry id, 4 attempt, 5 job id, 6 ending, 7 its lifetime in ms,
--         8 start of the reply channel's name, 9 largest published ending in bytes
-- returns 1 committed (also if this very delivery was committed before), 0 fenced: nothing changed
-- atomic  ownership must not change between the check and the commit, or two workers could both
--         commit; a crash half-way would leave a finished job in the stream

local job = redis.call('HMGET', KEYS[2], 'state', 'entry', 'attempt', 'worker', 'reply_to', 'ended_by')
if job[2] ~= ARGV[3] or job[3] ~= ARGV[4] or job[4] ~= ARGV[2] then
  return 0
end
if job[1] == 'finished' then
  return job[6] == ARGV[2] and 1 or 0
end
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then
  return 0
end
commit(KEYS[1], ARGV[1], ARGV[3], KEYS[2], ARGV[5], ARGV[2], ARGV[6], ARGV[7], ARGV[8] .. job[5], ARGV[9])
return 1
