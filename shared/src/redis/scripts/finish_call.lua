-- Commits the ending of a session's call that came without a stream entry.
--
-- KEYS[1] session, KEYS[2] record of the call
-- ARGV    1 worker, 2 call that opened the session, 3 job id, 4 ending, 5 the same in short
-- returns 1 committed (also if this worker committed it before), 0 fenced: nothing changed
-- atomic  the session must not be given up between the check and the commit

local job = read_job(KEYS[2])
if job.state == 'finished' then
  return job.ended_by == ARGV[1] and 1 or 0
end
local session = sessions().read(KEYS[1])
if session.worker ~= ARGV[1] or session.opening ~= ARGV[2] or session.running ~= ARGV[3]
    or job.worker ~= ARGV[1] or job.entry then
  return 0
end
settle(KEYS[2], ARGV[3], job, ARGV[1], ARGV[4], ARGV[5])
return 1
