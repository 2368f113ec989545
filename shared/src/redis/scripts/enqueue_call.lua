-- Puts a call into the queue of its session; opens the session with it if there is none.
--
-- KEYS[1] stream, KEYS[2] record of the call, KEYS[3] session, KEYS[4] its waiting calls,
--         KEYS[5] sessions of the tenant
-- ARGV    1 job id, 2 tenant, 3 payload, 4 gateway to reply to, 5 '1' if interactive, 6 most jobs of
--         the tenant (0: any), 7 its jobs per second (0: any), 8 most calls that may wait,
--         9 session's name `<tenant>:<id>`, 10 its id, 11 runtime ('' if it does not matter),
--         12 '1' if the call may open it, 13 most sessions of the tenant, 14 most jobs that may wait in
--         the stream; if the call is to be listed also 15 how long to keep it once it has ended, in ms,
--         16 its terms, 17 idempotency key ('': none), 18 what tells its request from others, 19 most
--         jobs of the tenant that are kept, 20 most bytes of those that have ended, 21 its webhook as
--         JSON ('': none)
-- returns {'queued', 0} (also if it was already), {'repeated', job} the key stands for that one, or
--         {refusal, ms to wait or the session's runtime}: 'mismatch' the key came with another request,
--         'full', 'busy', 'rate', 'placements' there are as many as may be, 'absent' no such session, 'sessions' the tenant has too many,
--         'kept' or 'kept_bytes' the tenant has as many jobs kept,
--         'lost' its worker is gone (told once), 'closing' it is being closed, 'runtime' it has
--         another one
-- atomic  two first calls must open one session; a call must not slip into a session that is given
--         up in the same moment

local sessions = sessions()
-- The stream says by its name which workers may open the session.
local priority = string.match(KEYS[1], ':jobs%-(.+)$')
local placement = placement_of(priority)
local id, tenant, name, may_open = ARGV[1], ARGV[2], ARGV[9], ARGV[12] == '1'
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'queued', 0}
end
if ARGV[15] then
  local word, job = find_repeated(KEYS[2], tenant, ARGV[17], ARGV[18])
  if word then
    return {word, job}
  end
end
local session = sessions.read(KEYS[3])
if session.worker and sessions.is_abandoned(KEYS[3], name) then
  sessions.forget(KEYS[3], KEYS[4], name, SESSION_LOST)
  if not session.closing then
    -- Whether or not others were told: this caller is told now.
    sessions.remember_loss(KEYS[3])
  end
  session = sessions.read(KEYS[3])
end
if session.lost then
  if not session.told or session.told == id then
    -- Remembered for a moment, so that a repeated call is not taken for the next caller.
    redis.call('HSET', KEYS[3], 'told', id)
    redis.call('PEXPIRE', KEYS[3], 10000)
    return {'lost', 0}
  end
  redis.call('DEL', KEYS[3])
end
local is_new = not session.worker
if is_new then
  if not may_open then
    return {'absent', 0}
  end
  if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[13]) then
    return {'sessions', 1000}
  end
  if is_full(KEYS[1], tonumber(ARGV[14])) then
    return {'full', 1000}
  end
  if placement and not has_lines(KEYS[2], placement) then
    return {'placements', 5000}
  end
elseif session.closing then
  return {'closing', 50}
elseif ARGV[11] ~= '' and session.runtime ~= ARGV[11] then
  return {'runtime', session.runtime}
elseif redis.call('LLEN', KEYS[4]) >= tonumber(ARGV[8]) then
  return {'full', 1000}
end
if ARGV[15] then
  local too_many = refuse_to_keep(KEYS[2], tenant, tonumber(ARGV[19]), tonumber(ARGV[20]))
  if too_many then
    return {too_many, 60000}
  end
end
local refusal, detail = refuse(KEYS[2], id, tenant, tonumber(ARGV[6]), tonumber(ARGV[7]))
if refusal then
  return {refusal, detail}
end
local now = text(now_us())
write_job(KEYS[2], now, tenant, ARGV[3], ARGV[4], ARGV[5] == '1', detail,
  {'session', name, 'may_open', ARGV[12], 'priority', priority or false, 'keep_ms', ARGV[15] or false,
  'terms', ARGV[16] or false, 'once', ARGV[17] or false, 'webhook', ARGV[21] or false})
if ARGV[15] then
  list(KEYS[2], id, tenant, ARGV[17], ARGV[18])
end
if is_new then
  open_lines(KEYS[2], priority)
  redis.call('HSET', KEYS[3], 'worker', '', 'runtime', ARGV[11], 'running', '', 'opening', id,
    'created_us', now, 'used_us', now)
  redis.call('ZADD', KEYS[5], now, ARGV[10])
  sessions.lease(KEYS[3], name)
  redis.call('HSET', KEYS[2], 'entry', redis.call('XADD', KEYS[1], '*', 'job', id))
  return {'queued', 0}
end
redis.call('HSET', KEYS[3], 'used_us', now)
redis.call('RPUSH', KEYS[4], id)
-- An owner at work looks for the next call by itself.
if session.worker ~= '' and session.running == '' then
  redis.call('PUBLISH', WORKERS .. session.worker, 'session ' .. name)
end
return {'queued', 0}
