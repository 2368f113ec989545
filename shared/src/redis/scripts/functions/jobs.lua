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
    'session', 'counted', 'interactive', 'shown', 'cancel')
  return {state = it[1], entry = it[2], attempt = it[3], worker = it[4], tenant = it[5], reply_to = it[6],
    ended_by = it[7], session = it[8], counted = it[9], interactive = it[10], shown = it[11], cancel = it[12]}
end

-- Ends a job that has not ended: stores the ending, wipes the payload (secrets must not outlive the
-- job), frees its entry and wakes the gateway. An ending over the limit is announced by the id
-- alone. `ended_by` is the worker whose ending it is, '' if it is the queue's own. Returns how many
-- gateways heard of it.
local function settle(record, id, job, ended_by, ending)
  redis.call('HSET', record, 'state', 'finished', 'result', ending, 'ended_by', ended_by)
  redis.call('HDEL', record, 'payload')
  redis.call('PEXPIRE', record, RESULT_TTL_MS)
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
    redis.call('PEXPIRE', sibling(record, 'out:' .. id), RESULT_TTL_MS)
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
  return redis.call('PUBLISH', REPLIES .. job.reply_to, message)
end

