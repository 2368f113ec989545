-- What is due by now in a shard, some at a time.
--
-- KEYS[1] retained jobs
-- ARGV    1 most to do of each kind
-- returns how many jobs were taken off their tenants' lists, as their time was over
-- atomic  workers do this side by side

local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now_us() / 1000), 'LIMIT', 0, ARGV[1])
for _, name in ipairs(over) do
  local tenant, id = string.match(name, '^([^:]*):(.*)$')
  redis.call('ZREM', sibling(KEYS[1], 'listed:' .. tenant), id)
  redis.call('ZREM', KEYS[1], name)
end
return #over
