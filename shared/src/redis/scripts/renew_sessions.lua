-- Renews a worker's sessions of one shard.
--
-- KEYS    for each session: the session, its waiting calls
-- ARGV    1 worker; then for each session: its name, the call that opened it
-- returns for each session: 'kept', 'waiting' calls wait and none runs, 'closing' it is to be
--         closed, 'cancel' its running call is to be stopped, 'lost' the worker does not own it
-- atomic  a renewal must not revive a session that was given up

local sessions = sessions()
local until_ms = now_us() / 1000 + LEASE_MS
local answers = {}
for index = 1, #KEYS / 2 do
  local key, calls, name, opening = KEYS[2 * index - 1], KEYS[2 * index], ARGV[2 * index], ARGV[1 + 2 * index]
  local session = sessions.read(key)
  local answer = 'kept'
  if session.worker ~= ARGV[1] or session.opening ~= opening then
    answer = 'lost'
  else
    sessions.lease(key, name, until_ms)
    if session.closing then
      answer = 'closing'
    elseif session.running == '' then
      answer = redis.call('LLEN', calls) > 0 and 'waiting' or 'kept'
    elseif redis.call('HGET', sibling(key, 'job:' .. session.running), 'cancel') then
      answer = 'cancel'
    end
  end
  answers[index] = answer
end
return answers
