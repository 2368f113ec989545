-- How a shard stands, for people who look at the fleet.
--
-- KEYS[1] to KEYS[3] streams of jobs without labels, KEYS[4] delayed jobs, KEYS[5] backlogs, KEYS[6] tenants,
--         KEYS[7] leases of sessions
-- ARGV    1 most tenants and backlogs to look at, 2 the one tenant that is asked about; '': all
-- returns {jobs that wait for a worker, jobs that run, how long the oldest waits in ms (-1: none waits),
--         delayed jobs, jobs in backlogs, sessions, tenants}, all 0 for one tenant; and for each tenant
--         looked at its name and {in line or running, in its backlog, listed and not ended, their bytes,
--         dead letters}
-- atomic  it only looks, but the numbers are of one moment

local most, only = tonumber(ARGV[1]), ARGV[2]
local tenants, placed = {}, {}
local function length_of(account)
  local length = 0
  for _, backlog in ipairs(backlogs_of(KEYS[6], account)) do
    length = length + redis.call('ZCARD', backlog)
  end
  return length
end

local function look(tenant)
  if tenants[tenant] then
    return tenants[tenant]
  end
  local usage = redis.call('HMGET', sibling(KEYS[6], 'usage:' .. tenant), 'jobs', 'bytes')
  tenants[tenant] = {
    redis.call('SCARD', sibling(KEYS[6], 'active:' .. tenant)),
    length_of(tenant) + (placed[tenant] or 0),
    tonumber(usage[1] or '0'),
    tonumber(usage[2] or '0'),
    redis.call('ZCARD', sibling(KEYS[6], 'dead:' .. tenant))
  }
  return tenants[tenant]
end

-- How many jobs are in a backlog; those that require labels are noted as their tenant's too.
local function count_backlog(account)
  local tenant, placement = string.match(account, '^([^:]*):?(.*)$')
  local length = length_of(account)
  if placement ~= '' then
    placed[tenant] = (placed[tenant] or 0) + length
  end
  return length
end

-- How long the first entry waits that no worker has; its name begins with when it came.
local function oldest_ms(stream, group)
  local first = redis.call('XRANGE', stream, '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
  return first and math.floor(now_us() / 1000) - tonumber(string.match(first[1], '^%d+')) or -1
end

local placements = redis.call('ZRANGE', sibling(KEYS[6], 'placements'), 0, -1)
local all = {0, 0, -1, 0, 0, 0, 0}
if only ~= '' then
  for _, placement in ipairs(placements) do
    count_backlog(only .. ':' .. placement)
  end
  look(only)
else
  local streams = {KEYS[1], KEYS[2], KEYS[3]}
  for _, placement in ipairs(placements) do
    for _, stream in ipairs(streams_of(KEYS[6], placement)) do
      streams[#streams + 1] = stream
    end
  end
  for _, stream in ipairs(streams) do
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    for _, fields in ipairs(groups.err and {} or groups) do
      local group = {}
      for index = 1, #fields, 2 do
        group[fields[index]] = fields[index + 1]
      end
      if group.name == GROUP then
        all[1] = all[1] + redis.call('XLEN', stream) - group.pending
        all[2] = all[2] + group.pending
        all[3] = math.max(all[3], oldest_ms(stream, group))
      end
    end
  end
  all[4] = redis.call('ZCARD', KEYS[4])
  local accounts = redis.call('SRANDMEMBER', KEYS[5], most)
  for _, account in ipairs(accounts) do
    all[5] = all[5] + count_backlog(account)
  end
  for _, account in ipairs(accounts) do
    look(string.match(account, '^[^:]*'))
  end
  all[6] = redis.call('ZCARD', KEYS[7])
  all[7] = redis.call('ZCARD', KEYS[6])
  for _, tenant in ipairs(redis.call('ZRANGE', KEYS[6], 0, most - 1)) do
    look(tenant)
  end
end
local answer = {all}
for tenant, numbers in pairs(tenants) do
  answer[#answer + 1] = {tenant, numbers}
end
return answer
