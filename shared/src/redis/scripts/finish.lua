-- Commits the ending of a job, if the worker still holds this delivery of it.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 worker, 2 entry id, 3 attempt, 4 job id, 5 ending, 6 the same in short
-- returns 1 committed (also if this very delivery was committed before), 2 committed, and its batch has
--         few items left in the queue, 0 fenced: nothing changed
-- atomic  ownership must not change between the check and the commit, or two workers could both
--         commit; a crash half-way would leave a finished job in the stream

local job = read_job(KEYS[2])
if job.entry ~= ARGV[2] or job.attempt ~= ARGV[3] or job.worker ~= ARGV[1] then
  return 0
end
if job.state == 'finished' then
  return job.ended_by == ARGV[1] and 1 or 0
end
if not owns(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
local _, is_low = settle(KEYS[2], ARGV[4], job, ARGV[1], ARGV[5], ARGV[6])
return is_low and 2 or 1
