-- Renews the leases of a worker: sets the idle time of its pending entries back to zero.
--
-- KEYS[1] stream, KEYS[2..] record of each lease's job
-- ARGV    1 group, 2 worker; then for each lease: entry id, attempt
-- returns the places (from 1) of the leases that the worker does not hold any more
-- atomic  XCLAIM takes an entry from whoever has it; without the check in the same step a late
--         renewal would steal a job back from the worker that took it over

local kept, lost = {}, {}
for index = 1, #KEYS - 1 do
  local entry, attempt = ARGV[1 + 2 * index], ARGV[2 + 2 * index]
  local job = redis.call('HMGET', KEYS[index + 1], 'entry', 'attempt')
  if job[1] == entry and job[2] == attempt and owns(KEYS[1], ARGV[1], ARGV[2], entry) then
    kept[#kept + 1] = entry
  else
    lost[#lost + 1] = index
  end
end
if #kept > 0 then
  -- The caller sends at most some hundred leases, well below Lua's limit for unpack.
  local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(kept)}
  claim[#claim + 1] = 'IDLE'
  claim[#claim + 1] = 0
  claim[#claim + 1] = 'JUSTID'
  redis.call(unpack(claim))
end
return lost
