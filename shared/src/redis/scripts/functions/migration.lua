-- In front of every script on a cluster: refuses to begin while the tenant's keys are on their way to
-- another node, or it would fail half-way at one that has left already. Whoever calls it tries again.
do
  local tag = string.match(KEYS[1], '{[^}]*}')
  local probe = redis.pcall('EXISTS', 'v1:' .. tag .. ':nothing')
  if type(probe) == 'table' and probe.err then
    return redis.error_reply('TRYAGAIN the keys of this tenant are on their way to another node')
  end
end
