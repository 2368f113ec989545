-- Puts a new job into its shard's stream.
--
-- KEYS[1] stream, KEYS[2] record of the job
-- ARGV    1 job id, 2 tenant, 3 payload, 4 gateway to reply to, 5 '1' if interactive, 6 most jobs of
--         the tenant (0: any), 7 its jobs per second (0: any), 8 most jobs that may wait; if it requires
--         labels also 9 priority, which names its placement
-- returns {'queued', 0} (also if it was already: a repeated call changes nothing), or
--         {refusal, ms to wait}: 'full' the queue, 'busy' the tenant's jobs, 'rate' its rate, 'placements'
--         there are as many as may be
-- atomic  the limits must hold against concurrent calls; a record without an entry would never
--         run, an entry without a record could not

if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'queued', 0}
end
if is_full(KEYS[1], tonumber(ARGV[8])) then
  return {'full', 1000}
end
local priority = ARGV[9]
if priority and not has_lines(KEYS[2], placement_of(priority)) then
  return {'placements', 5000}
end
local max_active, per_second, is_counted = tonumber(ARGV[6]), tonumber(ARGV[7]), false
if max_active > 0 or per_second > 0 then
  local refusal, detail = refuse(KEYS[2], ARGV[1], ARGV[2], max_active, per_second)
  if refusal then
    return {refusal, detail}
  end
  is_counted = detail
end
if priority then
  open_lines(KEYS[2], priority)
end
local entry = redis.call('XADD', KEYS[1], '*', 'job', ARGV[1])
write_job(KEYS[2], text(now_us()), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', is_counted,
  {'entry', entry, 'priority', priority or false})
return {'queued', 0}
