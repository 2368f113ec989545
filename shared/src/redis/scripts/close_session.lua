-- Asks for the end of a session: ends its calls, and tells its owner.
--
-- KEYS[1] session, KEYS[2] its waiting calls
-- ARGV    1 name `<tenant>:<id>`, 2 call that opened it ('': there was none when last looked)
-- returns 0 it is gone, 1 its owner is at it
-- atomic  no call may slip in between the end of the others and the mark

local sessions = sessions()
local session = sessions.read(KEYS[1])
if session.lost then
  -- The memory of a lost one; whoever closes it knows.
  redis.call('DEL', KEYS[1])
  return 0
end
-- One of the same name that was opened since is none of the caller's.
if not session.worker or session.opening ~= ARGV[2] then
  return 0
end
if session.worker == '' or sessions.is_abandoned(KEYS[1], ARGV[1]) then
  sessions.forget(KEYS[1], KEYS[2], ARGV[1], CANCELLED)
  return 0
end
sessions.end_calls(KEYS[1], KEYS[2], CANCELLED)
redis.call('HSET', KEYS[1], 'closing', '1')
if session.running ~= '' then
  redis.call('PUBLISH', WORKERS .. session.worker, 'cancel ' .. session.running)
end
redis.call('PUBLISH', WORKERS .. session.worker, 'session ' .. ARGV[1])
return 1
