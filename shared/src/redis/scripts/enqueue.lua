-- Puts a new job into its shard's stream.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 group, 2 job id, 3 tenant, 4 payload, 5 gateway to reply to, 6 most jobs that may wait
-- returns 1 queued (also if it was already: a repeated call changes nothing), 0 the queue is full
-- atomic  the limit must hold against concurrent calls; a record without an entry would never run,
--         an entry without a record could not

if redis.call('EXISTS', KEYS[2]) == 1 then
  return 1
end
local limit = tonumber(ARGV[6])
local length = redis.call('XLEN', KEYS[1])
if length >= limit then
  -- The length counts running jobs too; only near the limit is it worth asking how many.
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
  local running = pending.err == nil and pending[1] or 0
  if length - running >= limit then
    return 0
  end
end
local now = text(now_us())
local entry = redis.call('XADD', KEYS[1], '*', 'job', ARGV[2])
redis.call('HSET', KEYS[2], 'state', 'queued', 'tenant', ARGV[3], 'payload', ARGV[4], 'reply_to', ARGV[5],
  'attempt', 0, 'enqueued_us', now, 'queued_us', now, 'entry', entry)
return 1
