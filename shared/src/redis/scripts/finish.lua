-- Commits the endings of jobs, of each if the worker still holds this delivery of it.
--
-- KEYS    for each job: stream, record of the job
-- ARGV    for each job: worker, entry id, attempt, job id, ending, the same in short
-- returns for each job: 1 committed (also if this very delivery was committed before), 2 committed, and its batch
--         has few items left in the queue, 0 fenced: nothing changed
-- atomic  ownership must not change between the check and the commit, or two workers could both
--         commit; a crash half-way would leave a finished job in the stream

local function finish(stream, record, worker, entry, attempt, id, ending, summary)
  local job = read_job(record)
  if job.entry ~= entry or job.attempt ~= attempt or job.worker ~= worker then
    return 0
  end
  if job.state == 'finished' then
    return job.ended_by == worker and 1 or 0
  end
  if not owns(stream, worker, entry) then
    return 0
  end
  local _, is_low = settle(record, id, job, worker, ending, summary)
  return is_low and 2 or 1
end

local answers = {}
for index = 1, #KEYS / 2 do
  answers[index] = finish(KEYS[2 * index - 1], KEYS[2 * index], unpack(ARGV, 6 * index - 5, 6 * index))
end
return answers
