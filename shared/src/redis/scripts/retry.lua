-- Has a job whose program did not end well begin anew, by its own terms.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 worker, 2 entry id, 3 attempt, 4 job id, 5 after how many ms, 6 how the attempt ended, as JSON
-- returns 2 ended: it was cancelled meanwhile, 1 it waits again, 0 fenced: nothing changed
-- atomic  as `give_back`

local record, id = KEYS[2], ARGV[4]
local job = read_job(record)
if job.state ~= 'running' or job.entry ~= ARGV[2] or job.attempt ~= ARGV[3] or job.worker ~= ARGV[1] then
  return 0
end
if not owns(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
note_attempt(record, id, ARGV[6])
if job.cancel then
  settle(record, id, job, '', CANCELLED)
  return 2
end
drop(KEYS[1], job.entry)
redis.call('HSET', record, 'state', 'queued', 'attempt', 0, 'queued_us', text(now_us() + tonumber(ARGV[5]) * 1000))
redis.call('HDEL', record, 'entry', 'worker', 'started_us')
redis.call('HINCRBY', record, 'tries', 1)
if job.shown then
  -- Its readers go on where they are when it begins anew.
  redis.call('PEXPIRE', sibling(record, 'out:' .. id), tonumber(ARGV[5]) + 86400000)
end
if tonumber(ARGV[5]) > 0 then
  delay(record, id, job.tenant, now_us() / 1000 + tonumber(ARGV[5]))
else
  place(record, id, job.priority)
end
return 1
