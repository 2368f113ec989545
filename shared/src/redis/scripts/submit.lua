-- Takes in a new job and lists it: it stands in line, or waits for its time or in its tenant's backlog.
--
-- KEYS[1] stream of its priority, KEYS[2] record of the job
-- ARGV    1 job id, 2 tenant, 3 payload, 4 gateway to reply to ('': nobody waits), 5 '1' if
--         interactive, 6 most jobs of the tenant in line or running (0: as many as the fleet can run), 7 its
--         jobs per second (0: any), 8 how long
--         to keep it once it has ended, in ms, 9 its terms, 10 idempotency key ('': none), 11 what
--         tells its request from others, 12 most open jobs of the shard, 13 priority ('': normal), 14 how
--         long it is to wait at least, in ms, 15 the moment before which it is not to begin, in ms since
--         the epoch, 16 after how many ms it is not to begin any more (0: it may always),
--         17 weight of the tenant, 18 most open jobs of it, 19 most bytes of their payloads, 20 most jobs
--         of it that are kept, 21 most bytes of those that have ended
-- returns {'queued', 0} (also if it was already), {'repeated', job} the key stands for that one, or
--         {refusal, ms to wait}: 'mismatch' the key came with another request, 'full' the queue, 'jobs' or
--         'bytes' the tenant has as many open, 'kept' or 'kept_bytes' as many kept, 'rate' its rate
-- atomic  as `enqueue`; and two requests with one key must become one job

if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'queued', 0}
end
local word, job = find_repeated(KEYS[2], ARGV[2], ARGV[10], ARGV[11])
if word then
  return {word, job}
end
local refusal, wait_ms = refuse_open(KEYS[2], ARGV[2], #ARGV[3], tonumber(ARGV[18]), tonumber(ARGV[19]), tonumber(ARGV[12]))
if refusal then
  return {refusal, wait_ms}
end
local too_many = refuse_to_keep(KEYS[2], ARGV[2], tonumber(ARGV[20]), tonumber(ARGV[21]))
if too_many then
  return {too_many, 60000}
end
refusal, wait_ms = refuse(KEYS[2], ARGV[1], ARGV[2], 0, tonumber(ARGV[7]))
if refusal then
  return {refusal, wait_ms}
end
local now, id, priority = now_us(), ARGV[1], ARGV[13] ~= '' and ARGV[13]
write_job(KEYS[2], text(now), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', false)
count_open(KEYS[2], ARGV[2], #ARGV[3])
redis.call('HSET', sibling(KEYS[2], 'usage:' .. ARGV[2]), 'cap', ARGV[6], 'weight', ARGV[17])
list(KEYS[2], id, ARGV[2], ARGV[8], ARGV[9], ARGV[10], ARGV[11])
if priority then
  redis.call('HSET', KEYS[2], 'priority', priority)
end
if ARGV[16] ~= '0' then
  local expires_ms = text(now / 1000 + tonumber(ARGV[16]))
  redis.call('HSET', KEYS[2], 'expires_ms', expires_ms)
  redis.call('ZADD', sibling(KEYS[2], 'expiring'), expires_ms, id)
end
local due_ms = math.max(now / 1000 + tonumber(ARGV[14]), tonumber(ARGV[15]))
if due_ms <= now / 1000 then
  enter(KEYS[2], id, ARGV[2], priority)
else
  delay(KEYS[2], id, ARGV[2], due_ms)
end
return {'queued', 0}
