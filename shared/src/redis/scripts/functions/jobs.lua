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
    'session', 'counted', 'interactive', 'shown', 'cancel', 'keep_ms',
    'priority', 'webhook', 'batch')
  return {state = it[1], entry = it[2], attempt = it[3], worker = it[4], tenant = it[5], reply_to = it[6],
    ended_by = it[7], session = it[8], counted = it[9], interactive = it[10], shown = it[11], cancel = it[12],
    keep_ms = it[13], priority = it[14], webhook = it[15], batch = it[16]}
end

-- Tells all gateways that follow a job; returns how many heard of it.
local function tell(reply_to, message)
  local heard = 0
  for gateway in string.gmatch(reply_to, '%S+') do
    heard = heard + redis.call('PUBLISH', REPLIES .. gateway, message)
  end
  return heard
end

