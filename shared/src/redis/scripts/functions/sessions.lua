-- Functions about sessions; made when they are asked for, as plain jobs do without.
local function sessions()
  local it = {}

  -- What is known of a session; what is not is false.
  function it.read(session)
    local found = redis.call('HMGET', session, 'worker', 'opening', 'running', 'closing', 'runtime', 'lost', 'told')
    return {worker = found[1], opening = found[2], running = found[3], closing = found[4],
      runtime = found[5], lost = found[6], told = found[7]}
  end

  -- Until when a session is its owner's without renewal; without `until_ms` it is nobody's.
  function it.lease(session, name, until_ms)
    redis.call('ZADD', sibling(session, 'session-leases'), until_ms and text(until_ms) or '+inf', name)
  end

  -- Whether a session's owner has not renewed it in time.
  function it.is_abandoned(session, name)
    local deadline = redis.call('ZSCORE', sibling(session, 'session-leases'), name)
    return deadline and tonumber(deadline) < now_us() / 1000
  end

  -- Ends all calls of a session, those that run or wait in the stream too; returns how many of their
  -- callers know of it: not one that has cancelled, nor one whose gateway is gone.
  function it.end_calls(session, calls, ending)
    local told = 0
    local ids = redis.call('LRANGE', calls, 0, -1)
    for _, id in ipairs(redis.call('HMGET', session, 'running', 'opening')) do
      if id and id ~= '' then
        ids[#ids + 1] = id
      end
    end
    for _, id in ipairs(ids) do
      local record = sibling(session, 'job:' .. id)
      local job = read_job(record)
      if job.state and job.state ~= 'finished' then
        if settle(record, id, job, '', ending) > 0 and not job.cancel then
          told = told + 1
        end
      end
    end
    redis.call('DEL', calls)
    return told
  end

  -- Ends a session and all its calls; returns how many callers know. `name` is `<tenant>:<id>`.
  function it.forget(session, calls, name, ending)
    local told = it.end_calls(session, calls, ending)
    local tenant, id = string.match(name, '^([^:]*):(.*)$')
    redis.call('DEL', session)
    redis.call('ZREM', sibling(session, 'session-leases'), name)
    redis.call('ZREM', sibling(session, 'sessions:' .. tenant), id)
    return told
  end

  -- Leaves a session that was not opened to the next of its calls that can open it. Without one it
  -- ends, and its calls with it.
  function it.hand_over(session, calls, name, ending)
    local running = redis.call('HGET', session, 'running')
    if running and running ~= '' then
      local record = sibling(session, 'job:' .. running)
      settle(record, running, read_job(record), '', ending)
    end
    for _, id in ipairs(redis.call('LRANGE', calls, 0, -1)) do
      local record = sibling(session, 'job:' .. id)
      local call = redis.call('HMGET', record, 'state', 'may_open', 'priority')
      if call[1] == 'queued' and call[2] == '1' then
        redis.call('LREM', calls, 1, id)
        open_lines(record, call[3])
        redis.call('HSET', record, 'entry', redis.call('XADD', stream_of(record, call[3]), '*', 'job', id))
        redis.call('HSET', session, 'worker', '', 'running', '', 'opening', id)
        it.lease(session, name)
        return
      end
    end
    it.forget(session, calls, name, ending)
  end

  -- Leaves a word that a session was lost, for its next caller.
  function it.remember_loss(session)
    redis.call('HSET', session, 'lost', '1')
    redis.call('PEXPIRE', session, 3600000)
  end

  return it
end

