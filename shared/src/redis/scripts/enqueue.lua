-- Puts new jobs into their shard's streams.
--
-- KEYS    for each job: stream, record of the job
-- ARGV    1 most jobs that may wait; then for each job: id, tenant, payload, gateway to reply to, '1' if
--         interactive, most jobs of the tenant (0: any), its jobs per second (0: any), what names its placement
--         if it requires labels ('': it does not)
-- returns for each job {'queued', 0} (also if it was already: a repeated call changes nothing), or
--         {refusal, ms to wait}: 'full' the queue, 'busy' the tenant's jobs, 'rate' its rate, 'placements'
--         there are as many as may be
-- atomic  the limits must hold against concurrent calls; a record without an entry would never
--         run, an entry without a record could not

local function enqueue(stream, record, id, tenant, payload, reply_to, interactive, max_active, per_second, priority)
  if redis.call('EXISTS', record) == 1 then
    return {'queued', 0}
  end
  if is_full(stream, tonumber(ARGV[1])) then
    return {'full', 1000}
  end
  priority = priority ~= '' and priority
  if priority and not has_lines(record, placement_of(priority)) then
    return {'placements', 5000}
  end
  local is_counted = false
  if max_active ~= '0' or per_second ~= '0' then
    local refusal, detail = refuse(record, id, tenant, tonumber(max_active), tonumber(per_second))
    if refusal then
      return {refusal, detail}
    end
    is_counted = detail
  end
  if priority then
    open_lines(record, priority)
  end
  local entry = redis.call('XADD', stream, '*', 'job', id)
  write_job(record, text(now_us()), tenant, payload, reply_to, interactive == '1', is_counted,
    {'entry', entry, 'priority', priority})
  return {'queued', 0}
end

local answers = {}
for index = 1, #KEYS / 2 do
  answers[index] = enqueue(KEYS[2 * index - 1], KEYS[2 * index], unpack(ARGV, 8 * index - 6, 8 * index + 1))
end
return answers
