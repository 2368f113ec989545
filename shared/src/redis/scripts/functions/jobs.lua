-- Functions about records and entries of jobs.

-- Whether `worker` holds the pending entry. A missing stream or group means that nobody does.
local function owns(stream, worker, entry)
  local pending = redis.pcall('XPENDING', stream, GROUP, entry, entry, 1)
  return pending.err == nil and pending[1] ~= nil and pending[1][2] == worker
end

-- Takes an entry out of the stream: acknowledging alone would never free its memory.
local function drop(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- What the record of a job says, but for its payload; what it does not say is false.
local function read_job(record)
  local it = redis.call('HMGET', record, 'state', 'entry', 'attempt', 'worker', 'tenant', 'reply_to', 'ended_by',
    'session', 'counted', 'interactive', 'shown', 'cancel', 'keep_ms')
  return {state = it[1], entry = it[2], attempt = it[3], worker = it[4], tenant = it[5], reply_to = it[6],
    ended_by = it[7], session = it[8], counted = it[9], interactive = it[10], shown = it[11], cancel = it[12],
    keep_ms = it[13]}
end

-- Tells all gateways that follow a job; returns how many heard of it.
local function tell(reply_to, message)
  local heard = 0
  for gateway in string.gmatch(reply_to, '%S+') do
    heard = heard + redis.call('PUBLISH', REPLIES .. gateway, message)
  end
  return heard
end

-- Notes when a listed job ended, and until when it is kept; its idempotency key lasts as long.
local function retain(record, id, job, summary)
  local now, once = now_us(), redis.call('HGET', record, 'once')
  redis.call('HSET', record, 'finished_us', text(now), 'summary', summary or '')
  redis.call('ZADD', sibling(record, 'retained'), text(now / 1000 + job.keep_ms), job.tenant .. ':' .. id)
  if once then
    redis.call('PEXPIRE', sibling(record, 'once:' .. job.tenant .. ':' .. once), job.keep_ms)
  end
end

-- Ends a job that has not ended: stores the ending, wipes the payload (secrets must not outlive the
-- job), frees its entry and wakes the gateways. An ending over the limit is announced by the id
-- alone. `ended_by` is the worker whose ending it is, '' if it is the queue's own; `summary` is what
-- a worker says of it in short. Returns how many gateways heard of it.
local function settle(record, id, job, ended_by, ending, summary)
  local keep_ms = job.keep_ms or RESULT_TTL_MS
  redis.call('HSET', record, 'state', 'finished', 'result', ending, 'ended_by', ended_by)
  redis.call('HDEL', record, 'payload')
  redis.call('PEXPIRE', record, keep_ms)
  if job.keep_ms then
    retain(record, id, job, summary)
  end
  if job.entry then
    drop(sibling(record, 'jobs'), job.entry)
  end
  if job.counted then
    redis.call('SREM', sibling(record, 'active:' .. job.tenant), id)
  end
  if job.interactive then
    redis.call('DEL', sibling(record, 'in:' .. id))
  end
  if job.shown then
    redis.call('PEXPIRE', sibling(record, 'out:' .. id), keep_ms)
  end
  if job.session then
    local session = sibling(record, 'session:' .. job.session)
    if redis.call('HGET', session, 'running') == id then
      redis.call('HSET', session, 'running', '', 'used_us', text(now_us()))
    end
  end
  local message = id
  if #ending <= PUBLISH_LIMIT_BYTES then
    message = id .. ' ' .. ending
  end
  return tell(job.reply_to, message)
end

