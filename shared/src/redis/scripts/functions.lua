-- Functions of the scripts in this folder; loaded in front of each of them.

-- Microseconds since the epoch by Redis' own clock, as a number. Frozen while a script runs.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A large number as text: Lua's own conversion would round it to 14 digits.
local function text(number)
  return string.format('%.0f', number)
end

-- Whether `worker` holds the pending entry. A missing stream or group means that nobody does.
local function owns(stream, group, worker, entry)
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
  return pending.err == nil and pending[1] ~= nil and pending[1][2] == worker
end

-- Takes an entry out of the stream: acknowledging alone would never free its memory.
local function drop(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
end

-- Puts a job at the end of the stream in place of its former entry.
local function requeue(stream, group, entry, record, id, attempt)
  drop(stream, group, entry)
  local fresh = redis.call('XADD', stream, '*', 'job', id)
  redis.call('HSET', record, 'state', 'queued', 'entry', fresh, 'attempt', attempt, 'queued_us', text(now_us()))
  redis.call('HDEL', record, 'worker', 'started_us')
end

-- Ends a job: stores the ending, wipes the payload (secrets must not outlive the job), frees the
-- entry and wakes the gateway. An ending over `publish_limit` bytes is announced by the id alone.
-- `ended_by` is the worker whose ending it is, '' if it is the queue's own.
local function commit(stream, group, entry, record, id, ended_by, ending, ttl_ms, channel, publish_limit)
  redis.call('HSET', record, 'state', 'finished', 'result', ending, 'ended_by', ended_by)
  redis.call('HDEL', record, 'payload')
  redis.call('PEXPIRE', record, ttl_ms)
  drop(stream, group, entry)
  local message = id
  if #ending <= tonumber(publish_limit) then
    message = id .. ' ' .. ending
  end
  redis.call('PUBLISH', channel, message)
end

