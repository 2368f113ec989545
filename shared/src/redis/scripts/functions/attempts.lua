-- A function about attempts that came to nothing.

-- Notes how an attempt at a listed job ended, as JSON; the last of them are kept, for a job's life and
-- then as long as the job. Of other jobs nobody could ask for them, and nothing would remove them.
local function note_attempt(record, id, attempt)
  local key = sibling(record, 'attempts:' .. id)
  redis.call('RPUSH', key, attempt)
  redis.call('LTRIM', key, -20, -1)
  redis.call('PEXPIRE', key, 3888000000)
  redis.call('HSET', record, 'noted', '1')
end

