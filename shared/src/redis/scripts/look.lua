-- Where a job stands, for whoever waits for it. One that is not where its record says is put there first.
--
-- KEYS[1] record of the job
-- ARGV    1 job id, 2 tenant
-- returns {state, result, 1 if it was put right, else 0}; state and result are '' if there is none, the
--         state also if it is not the tenant's job
-- atomic  between two steps every job is in one place

local record, id = KEYS[1], ARGV[1]
local job = read_job(record)
if not job.state or job.tenant ~= ARGV[2] then
  return {'', '', 0}
end
local is_mended = false
if job.state == 'running' then
  is_mended = repair_running(record, id, job)
elseif job.state == 'queued' then
  local more = redis.call('HMGET', record, 'due_ms', 'backlogged')
  is_mended = repair_queued(record, id, job, more[1], more[2])
end
local now = redis.call('HMGET', record, 'state', 'result')
return {now[1] or '', now[2] or '', is_mended and 1 or 0}
