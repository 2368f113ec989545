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

-- Puts a job at the end of its stream.
local function place(record, id, priority)
  open_lines(record, priority)
  local entry = redis.call('XADD', stream_of(record, priority), '*', 'job', id)
  redis.call('HSET', record, 'entry', entry, 'queued_us', text(now_us()))
end

-- Where listed jobs of a tenant wait for one another: those of each placement apart, so that jobs that no
-- worker can run are in the way of none that one can.
local function account_of(tenant, placement)
  return placement and tenant .. ':' .. placement or tenant
end

-- Counts a listed job among those of its tenant that are in line or running; 1 if it was not before.
local function count_in(record, id, tenant, placement)
  if placement then
    redis.call('SADD', sibling(record, 'placed:' .. tenant), id)
    redis.call('SADD', sibling(record, 'placed:' .. account_of(tenant, placement)), id)
  end
  redis.call('HSET', record, 'counted', '1')
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

-- Lets jobs of a tenant's backlog into line while it may have more there, some at a time.
local function promote(record, tenant, placement)
  local backlog = sibling(record, 'backlog:' .. account_of(tenant, placement))
  if redis.call('EXISTS', backlog) == 0 then
    return
  end
  local room = math.min(16, room_of(record, tenant, placement))
  while room > 0 do
    local id = redis.call('ZPOPMIN', backlog)[1]
    if not id then
      return
    end
    local next = sibling(record, 'job:' .. id)
    local job = redis.call('HMGET', next, 'state', 'backlogged', 'priority')
    if job[1] == 'queued' and job[2] then
      redis.call('HDEL', next, 'backlogged')
      count_in(next, id, tenant, placement)
      place(next, id, job[3])
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

-- Changes by how many bytes a tenant's ended jobs are kept in.
local function keep_bytes(key, tenant, bytes)
  local kept = sibling(key, 'kept:' .. tenant)
  if redis.call('INCRBY', kept, bytes) <= 0 then
    redis.call('DEL', kept)
  end
end

-- Notes when a listed job ended, and until when it is kept; its idempotency key and its attempts last
-- as long. It does not wait any more, wherever it did, nor count as one of its tenant's open jobs.
-- `bytes` is how much is kept of it.
local function retain(record, id, job, summary, bytes)
  local now = now_us()
  local it = redis.call('HMGET', record, 'once', 'due_ms', 'expires_ms', 'noted', 'backlogged', 'bytes', 'started_us')
  redis.call('HSET', record, 'finished_us', text(now), 'summary', summary or '', 'kept_bytes', bytes)
  redis.call('ZADD', sibling(record, 'retained'), text(now / 1000 + job.keep_ms),
    job.tenant .. ':' .. id .. ':' .. bytes)
  keep_bytes(record, job.tenant, bytes)
  if it[1] then
    redis.call('PEXPIRE', sibling(record, 'once:' .. job.tenant .. ':' .. it[1]), job.keep_ms)
  end
  if it[2] then
    redis.call('ZREM', sibling(record, 'delayed'), id)
  end
  if it[3] then
    redis.call('ZREM', sibling(record, 'expiring'), id)
  end
  if it[4] then
    redis.call('PEXPIRE', sibling(record, 'attempts:' .. id), job.keep_ms)
  end
  if it[5] then
    redis.call('ZREM', sibling(record, 'backlog:' .. account_of(job.tenant, placement_of(job.priority))), id)
  end
  if it[6] then
    local usage, all = sibling(record, 'usage:' .. job.tenant), sibling(record, 'usage')
    redis.call('HINCRBY', usage, 'bytes', -it[6])
    redis.call('HINCRBY', all, 'bytes', -it[6])
    redis.call('HINCRBY', all, 'jobs', -1)
    if redis.call('HINCRBY', usage, 'jobs', -1) <= 0 and redis.call('HEXISTS', usage, 'batches') == 0 then
      redis.call('DEL', usage)
    end
    if it[7] then
      -- How long jobs take, the latest counting most; for estimates.
      local mean, took = tonumber(redis.call('HGET', all, 'mean_us')), now - tonumber(it[7])
      redis.call('HSET', all, 'mean_us', text(mean and mean * 0.9 + took * 0.1 or took))
    end
  end
end

-- Puts down that the webhook of a record is to hear of what became of it, in the very step in which that
-- happened. `name` is the record's own, behind its shard: `job:<id>` or `batch:<id>`.
local function announce(record, name)
  redis.call('HINCRBY', record, 'delivery', 1)
  redis.call('HSET', record, 'delivering', '1')
  redis.call('HDEL', record, 'deliverer')
  redis.call('ZADD', sibling(record, 'webhooks'), text(now_us() / 1000), name)
end

-- What is special about batches; set by `batches.lua` in the scripts that may end a job of one.
local batches

-- Ends a job that has not ended: stores the ending, wipes the payload (secrets must not outlive the
-- job, unless it `is_dead`), frees its entry and its place, and wakes the gateways. An ending over the limit is announced by the id
-- alone. `ended_by` is the worker whose ending it is, '' if it is the queue's own; `summary` is what
-- a worker says of it in short. Returns how many gateways heard of it, and whether its batch, if it is an
-- item of one, has few items left in the queue.
local function settle(record, id, job, ended_by, ending, summary)
  if job.batch then
    return batches().settle(record, id, job, ended_by, ending, summary)
  end
  local keep_ms = job.keep_ms or RESULT_TTL_MS
  redis.call('HSET', record, 'state', 'finished', 'result', ending, 'ended_by', ended_by)
  if job.is_dead then
    -- A dead letter keeps its payload, to be driven again.
    keep_ms = math.max(tonumber(keep_ms), DEAD_LETTER_TTL_MS)
    job.keep_ms = text(keep_ms)
    redis.call('HSET', record, 'dead', '1', 'keep_ms', job.keep_ms)
    redis.call('ZADD', sibling(record, 'dead:' .. job.tenant), 0, id)
  else
    redis.call('HDEL', record, 'payload')
  end
  if job.webhook and job.keep_ms then
    -- Its webhook is told from the record, so that is kept for as long as this may take.
    keep_ms = math.max(tonumber(keep_ms), WEBHOOK_TTL_MS)
    job.keep_ms = text(keep_ms)
    redis.call('HSET', record, 'keep_ms', job.keep_ms)
    announce(record, 'job:' .. id)
  end
  redis.call('PEXPIRE', record, keep_ms)
  if job.keep_ms then
    -- Of output that was shown there is a second copy, about as large.
    local bytes = #ending * (job.shown and 2 or 1)
    retain(record, id, job, summary, bytes + (job.is_dead and redis.call('HSTRLEN', record, 'payload') or 0))
  end
  if job.entry then
    drop(stream_of(record, job.priority), job.entry)
  end
  if job.counted then
    free_place(record, id, job.tenant, placement_of(job.priority))
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

