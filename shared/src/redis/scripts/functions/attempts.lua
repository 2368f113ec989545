-- Functions about attempts that came to nothing.

-- Notes how an attempt at a listed job ended, as JSON; the last of them are kept, for a job's life and
-- then as long as the job. Of other jobs nobody could ask for them, and nothing would remove them.
local function note_attempt(record, id, attempt)
  local key = sibling(record, 'attempts:' .. id)
  redis.call('RPUSH', key, attempt)
  redis.call('LTRIM', key, -20, -1)
  redis.call('PEXPIRE', key, 3888000000)
  redis.call('HSET', record, 'noted', '1')
end

-- How many events a job has written in all its attempts, which is the number of its next one.
local function count_events(record, id)
  local last = redis.call('XREVRANGE', sibling(record, 'out:' .. id), '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end
