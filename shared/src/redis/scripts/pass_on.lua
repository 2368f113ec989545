-- Passes a job that a worker cannot read on to others, or ends it if none is left that might.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 worker, 2 entry id, 3 attempt, 4 job id, 5 ending if nobody is left, 6 how the attempt ended,
--         as JSON
-- returns 2 ended, 1 queued again, 0 fenced: nothing changed
-- atomic  as `give_back`

local record, id = KEYS[2], ARGV[4]
local job = read_job(record)
if job.state ~= 'running' or job.entry ~= ARGV[2] or job.attempt ~= ARGV[3] or job.worker ~= ARGV[1] then
  return 0
end
if not owns(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
if job.cancel then
  give_up(record, id, CANCELLED)
  return 2
end
local function has_tried(tried, worker)
  return string.find(tried, worker, 1, true) ~= nil
end
local tried = redis.call('HGET', record, 'unread_by') or ''
if not has_tried(tried, ARGV[1]) then
  tried = tried .. ARGV[1] .. ' '
  redis.call('HSET', record, 'unread_by', tried)
end
-- Those that take such jobs, and how many at once.
local placement = placement_of(job.priority)
local workers = redis.call('HGETALL', sibling(record, placement and 'slots:' .. placement or 'slots'))
for index = 1, #workers, 2 do
  local worker, slots = workers[index], tonumber(workers[index + 1])
  if worker ~= 'total' and slots > 0 and not has_tried(tried, worker) then
    requeue(KEYS[1], record, id, tonumber(ARGV[3]) - 1)
    return 1
  end
end
if job.keep_ms then
  note_attempt(record, id, ARGV[6])
end
give_up(record, id, ARGV[5], true)
return 2
