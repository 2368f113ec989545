-- Cancels a job: one that waits ends at once, one that runs is to be stopped by its worker.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 job id, 2 tenant
-- returns 'cancelled' it waited, 'asked' its worker was told, 'finished', 'unknown'
-- atomic  a worker may take the job between the look and the ending

local id = ARGV[1]
local job = read_job(KEYS[2])
if not job.state or job.tenant ~= ARGV[2] then
  return 'unknown'
end
if job.state == 'finished' then
  -- A repeated call finds what the first one did.
  return job.ended_by == '' and redis.call('HGET', KEYS[2], 'result') == CANCELLED and 'cancelled' or 'finished'
end
if job.state == 'running' then
  redis.call('HSET', KEYS[2], 'cancel', '1')
  redis.call('PUBLISH', WORKERS .. job.worker, 'cancel ' .. id)
  return 'asked'
end
settle(KEYS[2], id, job, '', CANCELLED)
if not job.session then
  return 'cancelled'
end
local session, calls = sibling(KEYS[2], 'session:' .. job.session), sibling(KEYS[2], 'calls:' .. job.session)
if not job.entry then
  redis.call('LREM', calls, 1, id)
  return 'cancelled'
end
sessions().hand_over(session, calls, job.session, CANCELLED)
return 'cancelled'
