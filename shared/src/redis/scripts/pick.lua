-- Reads entries of a shard's three streams, each priority getting its share: of eight jobs five of high,
-- two of normal and one of low priority, and what one does not need is the others'.
--
-- KEYS[1] stream of high, KEYS[2] of normal, KEYS[3] of low priority
-- ARGV    1 worker, 2 most entries, 3 how many were read before
-- returns what XREADGROUP would, for the streams that have something
-- atomic  what is left over for one priority depends on what was found of the others

local turns = {1, 2, 1, 1, 3, 1, 2, 1}
local worker, most, read = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local shares, found, entries, total = {0, 0, 0}, {false, false, false}, {{}, {}, {}}, 0
for turn = read, read + most - 1 do
  local whose = turns[turn % #turns + 1]
  shares[whose] = shares[whose] + 1
end
local function take(whose, count)
  local reply = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', count, 'STREAMS', KEYS[whose], '>')
  local some = reply and reply[1] and reply[1][2] or {}
  for _, entry in ipairs(some) do
    table.insert(entries[whose], entry)
  end
  total = total + #some
  return #some == count
end
for whose = 1, 3 do
  found[whose] = shares[whose] == 0 or take(whose, shares[whose])
end
for whose = 1, 3 do
  if found[whose] and total < most then
    take(whose, most - total)
  end
end
local answer = {}
for whose = 1, 3 do
  if #entries[whose] > 0 then
    answer[#answer + 1] = {KEYS[whose], entries[whose]}
  end
end
return answer
