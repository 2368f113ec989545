-- Reads results of a batch.
--
-- KEYS[1] record of the batch, KEYS[2] its results
-- ARGV    1 tenant, 2 number of the first result, 3 most results, 4 bytes after which no further one is read
-- returns {1 if there will be none but those, else 0, results}, a result being {number, item, ending, name or ''};
--         {} if there is no such batch of the tenant
-- atomic  a batch that has ended has all its results; and one by one, as a few may be as large as many

local it = redis.call('HMGET', KEYS[1], 'tenant', 'state', 'ended')
if it[1] ~= ARGV[1] or it[2] == 'uploading' then
  return {}
end
-- Result n is entry n + 1.
local place, bytes, results = tonumber(ARGV[2]), 0, {}
while #results < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local entry = redis.call('XRANGE', KEYS[2], text(place + 1) .. '-0', '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  place = tonumber(string.match(entry[1], '^%d+'))
  local fields = entry[2]
  results[#results + 1] = {place - 1, fields[2], fields[4], fields[6] or ''}
  bytes = bytes + #fields[4]
end
local is_last = it[2] == 'finished' and place >= tonumber(it[3] or '0')
return {is_last and 1 or 0, results}
