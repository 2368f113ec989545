-- Renews the leases of a worker: sets the idle time of its pending entries back to zero.
--
-- KEYS[1] stream, KEYS[2..] record of each lease's job
-- ARGV    1 worker; then for each lease: entry id, attempt
-- returns the places (from 1) of the leases that the worker does not hold any more, and, negative,
--         of those whose jobs are to be cancelled
-- atomic  XCLAIM takes an entry from whoever has it; without the check in the same step a late
--         renewal would steal a job back from the worker that took it over

local kept, answers = {}, {}
for index = 1, #KEYS - 1 do
  local entry, attempt = ARGV[2 * index], ARGV[1 + 2 * index]
  local job = redis.call('HMGET', KEYS[index + 1], 'entry', 'attempt', 'cancel')
  if job[1] == entry and job[2] == attempt and owns(KEYS[1], ARGV[1], entry) then
    kept[#kept + 1] = entry
    if job[3] then
      answers[#answers + 1] = -index
    end
  else
    answers[#answers + 1] = index
  end
end
if #kept > 0 then
  -- The caller sends at most some hundred leases, well below Lua's limit for unpack.
  local claim = {'XCLAIM', KEYS[1], GROUP, ARGV[1], 0, unpack(kept)}
  claim[#claim + 1] = 'IDLE'
  claim[#claim + 1] = 0
  claim[#claim + 1] = 'JUSTID'
  redis.call(unpack(claim))
end
return answers
