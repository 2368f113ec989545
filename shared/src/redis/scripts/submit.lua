-- Puts a new job into its shard's stream, and into its tenant's list.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 job id, 2 tenant, 3 payload, 4 gateway to reply to ('': nobody waits), 5 '1' if
--         interactive, 6 most jobs of the tenant (0: any), 7 its jobs per second (0: any), 8 how long
--         to keep it once it has ended, in ms, 9 its terms, 10 idempotency key ('': none), 11 what
--         tells its request from others, 12 most jobs that may wait
-- returns {'queued', 0} (also if it was already), {'repeated', job} the key stands for that one, or
--         {refusal, ms to wait}: 'mismatch' the key came with another request, and those of `enqueue`
-- atomic  as `enqueue`; and two requests with one key must become one job

if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'queued', 0}
end
local word, job = find_repeated(KEYS[2], ARGV[2], ARGV[10], ARGV[11])
if word then
  return {word, job}
end
if is_full(KEYS[1], tonumber(ARGV[12])) then
  return {'full', 1000}
end
local refusal, detail = refuse(KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[6]), tonumber(ARGV[7]))
if refusal then
  return {refusal, detail}
end
local entry = redis.call('XADD', KEYS[1], '*', 'job', ARGV[1])
write_job(KEYS[2], text(now_us()), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', detail, 'entry', entry)
list(KEYS[2], ARGV[1], ARGV[2], ARGV[8], ARGV[9], ARGV[10], ARGV[11])
return {'queued', 0}
