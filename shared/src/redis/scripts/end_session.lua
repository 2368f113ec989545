-- Forgets a session whose sandbox is gone, or gives up one whose owner is.
--
-- KEYS[1] session, KEYS[2] its waiting calls
-- ARGV    1 name `<tenant>:<id>`, 2 worker that owns it ('': only if its owner has not renewed it),
--         3 call that opened it, if a worker ends it, 4 '1' if it is lost: its callers, or else the
--         next one, are to be told; '0' if it was closed, or could not be opened: a call that waits
--         may try
-- returns 1 it is gone, 0 it belongs to somebody else: nothing changed
-- atomic  the session must not be renewed, or opened anew, between the check and its end

local sessions = sessions()
local session = sessions.read(KEYS[1])
if ARGV[2] == '' then
  if not sessions.is_abandoned(KEYS[1], ARGV[1]) then
    return 0
  end
elseif not session.worker then
  return 1
elseif session.worker ~= ARGV[2] or session.opening ~= ARGV[3] then
  return 0
end
if session.closing then
  sessions.forget(KEYS[1], KEYS[2], ARGV[1], CANCELLED)
elseif ARGV[4] ~= '1' then
  sessions.hand_over(KEYS[1], KEYS[2], ARGV[1], CANCELLED)
elseif sessions.forget(KEYS[1], KEYS[2], ARGV[1], SESSION_LOST) == 0 then
  sessions.remember_loss(KEYS[1])
end
return 1
