-- Functions for all scripts. Every function that is put in front of a script costs time in each of
-- its calls, so there are several of these files, and a script gets those that it uses.

local now

-- Microseconds since the epoch by Redis' own clock, as a number. Frozen while a script runs, so asked once.
local function now_us()
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
  end
  return now
end

-- A number as text, rounded: Lua's own conversion would leave 14 digits of a large one, and Redis' own, of numbers
-- among its arguments, takes several times as long. None is below zero.
local function text(number)
  return string.format('%d', number + 0.5)
end

local shard

-- Another key of the same shard, which is that of all keys of a call. The names are those of `keys.rs`; only
-- keys that depend on what a record says are named here.
local function sibling(key, name)
  shard = shard or string.match(key, '^v1:{s%d+}:')
  return shard .. name
end

