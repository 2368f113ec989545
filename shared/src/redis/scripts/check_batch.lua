-- Looks whether the jobs of a batch's items are where their records say, some at a time, and puts right what is
-- not; of a batch that stops, has them stop.
--
-- KEYS[1] record of the batch
-- ARGV    1 batch id, 2 about how many jobs to look at
-- returns for each thing that was put right {what, whose}
-- atomic  between two steps every job is in one place

local record, id = KEYS[1], ARGV[1]
local it = redis.call('HMGET', record, 'state', 'tenant', 'checked', 'priority')
local state, tenant = it[1], it[2]
if state ~= 'running' and state ~= 'stopping' then
  return {}
end
local repaired = {}
local function note(what, whose)
  repaired[#repaired + 1] = {what, whose}
end

local page = redis.call('HSCAN', sibling(record, 'batch-open:' .. id), it[3] or '0', 'COUNT', ARGV[2])
local names = {}
for index = 1, #page[2], 2 do
  names[#names + 1] = page[2][index]
end
for _, name in ipairs(names) do
  local of_job = sibling(record, 'job:' .. name)
  local job = read_job(of_job)
  if job.state ~= 'queued' and job.state ~= 'running' then
    -- Nothing is left of it but its place among the items.
    settle(of_job, name, {batch = id, tenant = tenant, counted = true, priority = it[4]}, '', WORKER_LOST)
    note('item', name)
  else
    if job.counted and count_in(of_job, name, tenant, placement_of(job.priority)) == 1 then
      note('counted', name)
    end
    if job.state == 'running' then
      if repair_running(of_job, name, job) then
        note('running', name)
      end
    else
      local more = redis.call('HMGET', of_job, 'due_ms', 'backlogged')
      if repair_queued(of_job, name, job, more[1], more[2]) then
        note('queued', name)
      end
    end
  end
end
if state == 'stopping' then
  batches().stop_items(record, names, false)
end
if batches().finish_if_over(record, id, tenant) then
  note('batch', id)
elseif redis.call('HGET', record, 'state') ~= 'finished' then
  redis.call('HSET', record, 'checked', page[1])
end
return repaired
