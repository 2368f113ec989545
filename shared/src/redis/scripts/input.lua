-- Hands input to an interactive job, running or not yet.
--
-- KEYS[1] record of the job, KEYS[2] its input
-- ARGV    1 tenant, 2 job id, 3 input, 4 a name for this input, 5 most inputs that may wait,
--         6 lifetime in ms
-- returns 'taken' (also if it was already), 'full' try again in a moment, 'over' the job has ended,
--         reads no input, or is none of the tenant's
-- atomic  input for a job that just ended would be left behind

local job = redis.call('HMGET', KEYS[1], 'state', 'tenant', 'worker', 'interactive', 'input')
if job[2] ~= ARGV[1] or not job[4] or (job[1] ~= 'queued' and job[1] ~= 'running') then
  return 'over'
end
if job[5] == ARGV[4] then
  return 'taken'
end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[5]) then
  return 'full'
end
redis.call('HSET', KEYS[1], 'input', ARGV[4])
redis.call('XADD', KEYS[2], '*', 'i', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
if job[1] == 'running' then
  redis.call('PUBLISH', WORKERS .. job[3], 'input ' .. ARGV[2])
end
return 'taken'
