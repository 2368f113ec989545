-- Functions about a tenant's listed jobs: how many may stand in line or run, and who comes next.

-- Puts a job at the end of its stream; returns its entry, which its record is to name.
local function line_up(record, id, priority)
  open_lines(record, priority)
  return redis.call('XADD', stream_of(record, priority), '*', 'job', id)
end

-- The same for one whose record is there.
local function place(record, id, priority)
  redis.call('HSET', record, 'entry', line_up(record, id, priority), 'queued_us', text(now_us()))
end

-- Where listed jobs of a tenant wait for one another: those of each placement apart, so that jobs that no
-- worker can run are in the way of none that one can.
local function account_of(tenant, placement)
  return placement and tenant .. ':' .. placement or tenant
end

-- Counts a listed job among those of its tenant that are in line or running; 1 if it was not before. Its
-- record is to say that it is `counted`.
local function count_in(record, id, tenant, placement)
  if placement then
    redis.call('SADD', sibling(record, 'placed:' .. tenant), id)
    redis.call('SADD', sibling(record, 'placed:' .. account_of(tenant, placement)), id)
  end
  return redis.call('SADD', sibling(record, 'active:' .. tenant), id)
end

-- Counts it no more.
local function count_out(record, id, tenant, placement)
  redis.call('SREM', sibling(record, 'active:' .. tenant), id)
  if placement then
    redis.call('SREM', sibling(record, 'placed:' .. tenant), id)
    redis.call('SREM', sibling(record, 'placed:' .. account_of(tenant, placement)), id)
  end
end

-- How many jobs the workers can run at once that read the lines of a placement, or those without one.
local function slots_of(record, placement)
  local slots = sibling(record, placement and 'slots:' .. placement or 'slots')
  return tonumber(redis.call('HGET', slots, 'total') or '0')
end

-- How many listed jobs of a tenant without a cap may be in line or running at once, by its weight: what the
-- workers can run that read there, but for one place in eight, so that a job somebody waits for finds one
-- however many jobs the tenant has. Where there are hardly any places, a job more than run, so that none waits
-- for the next one; without workers, some.
local function share(slots, weight)
  if slots == 0 then
    return 16
  end
  local some = slots < 4 and slots + 1 or slots - math.max(1, math.floor(slots / 8))
  return math.max(1, math.ceil(some * weight))
end

-- How many listed jobs of a tenant may be in line or running at once: its cap, or else its share. Returns
-- also whether it is the cap, which holds for all placements together.
local function window(record, tenant, placement)
  local it = redis.call('HMGET', sibling(record, 'usage:' .. tenant), 'cap', 'weight')
  local cap, weight = tonumber(it[1] or '0'), tonumber(it[2] or '1')
  if cap > 0 then
    return cap, true
  end
  return share(slots_of(record, placement), weight), false
end

-- How many more there may be.
local function room_of(record, tenant, placement)
  local most, is_cap = window(record, tenant, placement)
  local active = redis.call('SCARD', sibling(record, 'active:' .. tenant))
  if is_cap then
    return most - active
  end
  local placed = redis.call('SCARD', sibling(record, 'placed:' .. account_of(tenant, placement)))
  return most - (placement and placed or active - placed)
end

-- The backlog of an account that jobs of a priority wait in.
local function backlog_of(record, account, priority)
  local urgency = priority and string.match(priority, '^%a+') or 'normal'
  return sibling(record, (urgency == 'normal' and 'backlog:' or 'backlog-' .. urgency .. ':') .. account)
end

-- The backlogs of an account, the most urgent first.
local function backlogs_of(record, account)
  return {sibling(record, 'backlog-high:' .. account), sibling(record, 'backlog:' .. account),
    sibling(record, 'backlog-low:' .. account)}
end

-- Takes the next job of an account out of its backlogs; nil if none waits there. Where several priorities wait
-- they take turns, as in the lines (`pick.lua`).
local function next_waiting(backlogs, is_mixed, record, tenant, placement)
  local first = 2
  if is_mixed then
    local turns = {1, 2, 1, 1, 3, 1, 2, 1}
    local turn = redis.call('HINCRBY', sibling(record, 'usage:' .. tenant), account_of('turn', placement), 1)
    first = turns[(turn - 1) % #turns + 1]
  end
  local id = redis.call('ZPOPMIN', backlogs[first])[1]
  for urgency = 1, 3 do
    id = id or redis.call('ZPOPMIN', backlogs[urgency])[1]
  end
  return id
end

-- Lets jobs of a tenant's backlogs into line while it may have more there, some at a time.
local function promote(record, tenant, placement)
  local backlogs = backlogs_of(record, account_of(tenant, placement))
  local waiting = redis.call('EXISTS', unpack(backlogs))
  if waiting == 0 then
    return
  end
  local room = math.min(16, room_of(record, tenant, placement))
  while room > 0 do
    local id = next_waiting(backlogs, waiting > 1, record, tenant, placement)
    if not id then
      return
    end
    local next = sibling(record, 'job:' .. id)
    local job = redis.call('HMGET', next, 'state', 'backlogged', 'priority')
    if job[1] == 'queued' and job[2] then
      redis.call('HDEL', next, 'backlogged')
      count_in(next, id, tenant, placement)
      redis.call('HSET', next, 'counted', '1', 'entry', line_up(next, id, job[3]))
      room = room - 1
    end
  end
end

-- Counts a job out that has ended, and lets those in that waited for its place.
local function free_place(record, id, tenant, placement)
  count_out(record, id, tenant, placement)
  promote(record, tenant, placement)
  if placement then
    -- What it left of its tenant's cap is also the others'.
    promote(record, tenant)
  end
end

