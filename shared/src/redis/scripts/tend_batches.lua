-- Batches that are to be looked at by now, some at a time: uploads that fell silent and batches that were
-- kept long enough go; those that run are the caller's to advance, for a while.
--
-- KEYS[1] batches by when to look at them
-- ARGV    1 most batches, 2 for how many ms they are the caller's
-- returns the batches to advance, and how many were looked at in all
-- atomic  an upload must not be sealed while it is removed

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now_us() / 1000), 'LIMIT', 0, ARGV[1])
local running = {}
for _, name in ipairs(due) do
  local tenant, id = string.match(name, '^([^:]*):(.*)$')
  local batch = sibling(KEYS[1], 'batch:' .. id)
  local state = redis.call('HGET', batch, 'state')
  if state == 'running' or state == 'stopping' then
    batches().look_after(batch, id, tenant, ARGV[2])
    running[#running + 1] = id
  else
    batches().remove(batch, id, tenant)
  end
end
return {running, #due}
