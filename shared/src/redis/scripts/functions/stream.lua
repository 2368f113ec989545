-- Functions for jobs that a worker took from the stream and does not end.

-- Ends a job that is in the stream. A session that it should have opened ends with it. With `is_dead`,
-- a listed job becomes a dead letter.
local function give_up(record, id, ending, is_dead)
  local job = read_job(record)
  job.is_dead = is_dead and job.keep_ms and not job.session
  settle(record, id, job, '', ending)
  if job.session then
    local session = sibling(record, 'session:' .. job.session)
    if redis.call('HGET', session, 'opening') == id then
      sessions().forget(session, sibling(record, 'calls:' .. job.session), job.session, ending)
    end
  end
end

-- Puts a job that is in the stream at its end.
local function requeue(stream, record, id, attempt)
  local job = read_job(record)
  drop(stream, job.entry)
  local fresh = redis.call('XADD', stream, '*', 'job', id)
  redis.call('HSET', record, 'state', 'queued', 'entry', fresh, 'attempt', attempt)
  if job.state == 'running' then
    redis.call('HSET', record, 'queued_us', text(now_us()))
  end
  redis.call('HDEL', record, 'worker', 'started_us')
  if job.session then
    local session = sibling(record, 'session:' .. job.session)
    redis.call('HSET', session, 'worker', '', 'running', '')
    sessions().lease(session, job.session)
  end
end

