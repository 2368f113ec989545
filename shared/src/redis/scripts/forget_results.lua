-- Forgets results of a batch that were read, some at a time.
--
-- KEYS[1] record of the batch, KEYS[2] its results
-- ARGV    1 batch id, 2 tenant, 3 number of the first result to keep, 4 most to forget
-- returns how many were forgotten; -1 if there is no such batch of the tenant
-- atomic  what the results take up must be what is counted

local it = redis.call('HMGET', KEYS[1], 'tenant', 'state')
if it[1] ~= ARGV[2] or it[2] == 'uploading' then
  return -1
end
-- Result n is entry n + 1.
local over = redis.call('XRANGE', KEYS[2], '-', ARGV[3] .. '-0', 'COUNT', ARGV[4])
if #over == 0 then
  return 0
end
local bytes = 0
for _, entry in ipairs(over) do
  local fields = entry[2]
  bytes = bytes + 32
  for index = 3, #fields, 2 do
    bytes = bytes + #fields[index + 1]
  end
end
redis.call('XTRIM', KEYS[2], 'MINID', '=', string.match(over[#over][1], '^%d+') + 1)
redis.call('HINCRBY', KEYS[1], 'results', 0 - bytes)
batches().account(KEYS[1], it[1], 'results', 0 - bytes)
if it[2] == 'running' then
  batches().look_after(KEYS[1], ARGV[1], it[1], 0)
end
return #over
