-- Marks a session for closing on its owner's own account, if there is nothing to do in it.
--
-- KEYS[1] session, KEYS[2] its waiting calls
-- ARGV    1 worker, 2 call that opened it
-- returns 'closing', 'busy' a call waits or runs, 'lost' the worker does not own it
-- atomic  a call may come in the moment in which the session would have been given up as idle

local session = sessions().read(KEYS[1])
if session.worker ~= ARGV[1] or session.opening ~= ARGV[2] then
  return 'lost'
end
if not session.closing then
  if session.running ~= '' or redis.call('LLEN', KEYS[2]) > 0 then
    return 'busy'
  end
  redis.call('HSET', KEYS[1], 'closing', '1')
end
return 'closing'
