-- Turns stream entries that a worker has just read or claimed into running jobs.
--
-- KEYS[1] stream, KEYS[2..] record of each entry's job
-- ARGV    1 group, 2 worker, 3 most jobs to start, 4 deliveries allowed, 5 ending of a job beyond
--         them, 6 its lifetime in ms, 7 start of the reply channel's name, 8 largest published
--         ending in bytes, 9 '1' if the entries were taken from a silent worker ('0': new ones);
--         then for each entry: entry id, job id
-- returns for each entry {outcome, attempt, waited in us, tenant, payload}; outcome is
--         'taken'     runs now,
--         'released'  over the number asked for: back in the stream as it was,
--         'ended'     delivered too often: ended with ARGV[5],
--         'missing'   has no record, or not one that expects this entry: entry removed,
--         'lost'      belongs to another worker by now: untouched
-- atomic  between reading an entry and starting its job the entry may change hands

local stream, group, worker = KEYS[1], ARGV[1], ARGV[2]
local room = tonumber(ARGV[3])
local allowed = tonumber(ARGV[4])
local stolen = ARGV[9] == '1'
local now = now_us()
local answers = {}
for index = 1, #KEYS - 1 do
  local record, entry, id = KEYS[index + 1], ARGV[8 + 2 * index], ARGV[9 + 2 * index]
  local outcome, attempt, waited, tenant, payload = 'taken', 0, 0, '', ''
  if not owns(stream, group, worker, entry) then
    outcome = 'lost'
  else
    local job = redis.call('HMGET', record, 'state', 'entry', 'attempt', 'queued_us', 'worker', 'tenant', 'payload', 'reply_to')
    attempt = tonumber(job[3] or '0')
    -- A repeated call for the same new entry: the former answer was lost on its way.
    local again = not stolen and job[1] == 'running' and job[5] == worker
    if not job[1] or job[1] == 'finished' or job[2] ~= entry or not job[7] then
      outcome = 'missing'
      drop(stream, group, entry)
    elseif attempt >= allowed and not again then
      outcome = 'ended'
      commit(stream, group, entry, record, id, '', ARGV[5], ARGV[6], ARGV[7] .. job[8], ARGV[8])
    elseif room < 1 then
      outcome = 'released'
      requeue(stream, group, entry, record, id, again and attempt - 1 or attempt)
    else
      room = room - 1
      if not again then
        attempt = attempt + 1
        redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'worker', worker, 'started_us', text(now))
      end
      waited = now - tonumber(job[4])
      tenant, payload = job[6], job[7]
    end
  end
  answers[index] = {outcome, attempt, waited, tenant, payload}
end
return answers
