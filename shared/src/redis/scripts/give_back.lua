-- Puts a job that a worker holds back into the stream, or ends it if it must not be started again.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 worker, 2 entry id, 3 attempt, 4 job id, 5 ending if it may not come again, '' for that
--         of lost jobs, 6 '1' if this delivery counts, 7 how the attempt ended, as JSON, if so
-- returns 2 ended, 1 queued again, 0 fenced: nothing changed
-- atomic  a crash between removing the old entry and adding the new one would lose the job, the
--         other order would run it twice

local job = read_job(KEYS[2])
if job.state ~= 'running' or job.entry ~= ARGV[2] or job.attempt ~= ARGV[3] or job.worker ~= ARGV[1] then
  return 0
end
if not owns(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
local attempt = tonumber(ARGV[3])
local counts = ARGV[6] == '1'
if counts and job.keep_ms then
  note_attempt(KEYS[2], ARGV[4], ARGV[7])
end
-- Output that a caller has seen must not be shown a second time; readers of a listed job are told.
if job.cancel or (job.shown and not job.keep_ms) or (counts and attempt >= MAX_DELIVERIES) then
  local ending = ARGV[5] == '' and WORKER_LOST or ARGV[5]
  give_up(KEYS[2], ARGV[4], job.cancel and CANCELLED or ending, not job.cancel)
  return 2
end
requeue(KEYS[1], KEYS[2], ARGV[4], counts and attempt or attempt - 1)
return 1
