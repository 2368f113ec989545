-- Functions that look whether a job is where its record says, and put it there if it is not.

-- Whether the entry of a job is in its stream, and a worker has it or will get it.
local function is_in_line(stream, entry)
  if not entry or #redis.call('XRANGE', stream, entry, entry) == 0 then
    return false
  end
  local pending = redis.pcall('XPENDING', stream, GROUP, entry, entry, 1)
  if pending.err ~= nil or pending[1] ~= nil then
    return true
  end
  return #redis.call('XRANGE', stream, '(' .. last_delivered(stream), entry, 'COUNT', 1) == 1
end

-- Puts right a job that runs and whose worker could not end it; true if it was one.
local function repair_running(record, id, job)
  if job.session and not job.entry then
    if redis.call('HGET', sibling(record, 'session:' .. job.session), 'running') == id then
      return false
    end
    settle(record, id, job, '', SESSION_LOST)
    return true
  end
  local stream = stream_of(record, job.priority)
  if is_in_line(stream, job.entry) then
    return false
  end
  if job.cancel then
    give_up(record, id, CANCELLED)
  elseif job.session then
    give_up(record, id, SESSION_LOST)
  elseif job.shown and not job.keep_ms then
    give_up(record, id, WORKER_LOST)
  else
    open_lines(record, job.priority)
    requeue(stream, record, id, job.attempt)
  end
  return true
end

-- Puts right a job that waits where nobody would look for it; true if it was one.
local function repair_queued(record, id, job, due_ms, is_backlogged)
  if due_ms then
    return redis.call('ZADD', sibling(record, 'delayed'), 'NX', due_ms, id) == 1
  end
  if is_backlogged then
    local account = account_of(job.tenant, placement_of(job.priority))
    if redis.call('ZSCORE', backlog_of(record, account, job.priority), id) then
      return false
    end
    redis.call('HDEL', record, 'backlogged')
    enter(record, id, job.tenant, job.priority)
    return true
  end
  if job.session and not job.entry then
    if redis.call('LPOS', sibling(record, 'calls:' .. job.session), id) then
      return false
    end
    settle(record, id, job, '', SESSION_LOST)
    return true
  end
  local stream = stream_of(record, job.priority)
  if is_in_line(stream, job.entry) then
    return false
  end
  if job.entry then
    drop(stream, job.entry)
  end
  if job.keep_ms and not job.counted and not job.session then
    enter(record, id, job.tenant, job.priority)
  else
    place(record, id, job.priority)
  end
  return true
end

