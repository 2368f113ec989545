-- Starts the next call of a session that its owner is idle in.
--
-- KEYS[1] session, KEYS[2] its waiting calls
-- ARGV    1 worker, 2 call that opened the session
-- returns {'taken', job id, waited in us, payload}, {'idle'} none waits, {'closing'} it is to be
--         closed, {'lost'} the worker does not own it
-- atomic  a call must be either waiting or running, and one at a time

local session = sessions().read(KEYS[1])
if session.worker ~= ARGV[1] or session.opening ~= ARGV[2] then
  return {'lost'}
end
if session.closing then
  return {'closing'}
end
if session.running == ARGV[2] then
  -- The opening call came, and ends, with a lease.
  return {'idle'}
end
-- Still running: the answer to an earlier call of this script was lost on its way.
local id = session.running ~= '' and session.running or redis.call('LPOP', KEYS[2])
while id do
  local record = sibling(KEYS[1], 'job:' .. id)
  local job = redis.call('HMGET', record, 'state', 'queued_us', 'payload')
  if job[3] then
    local now = now_us()
    redis.call('HSET', record, 'state', 'running', 'attempt', 1, 'worker', ARGV[1], 'started_us', text(now))
    redis.call('HSET', KEYS[1], 'running', id, 'used_us', text(now))
    return {'taken', id, now - tonumber(job[2]), job[3]}
  end
  -- It has ended, or its record is gone: passed over.
  redis.call('HSET', KEYS[1], 'running', '')
  id = redis.call('LPOP', KEYS[2])
end
return {'idle'}
