-- Functions about the ends of jobs, and what is kept of them.

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
    redis.call('ZREM', backlog_of(record, account_of(job.tenant, placement_of(job.priority)), job.priority), id)
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

-- Takes a job that has ended off the list of those that are to go in time.
local function unretain(record, id, tenant)
  local bytes = redis.call('HGET', record, 'kept_bytes')
  if bytes then
    redis.call('ZREM', sibling(record, 'retained'), tenant .. ':' .. id .. ':' .. bytes)
    redis.call('HDEL', record, 'kept_bytes')
    keep_bytes(record, tenant, -bytes)
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

