-- Submits the job of a schedule's run, if that is still due, and moves the schedule to its next run: in one
-- step, so that of all workers that see it due one submits it, and none twice.
--
-- KEYS[1] schedule, KEYS[2] its runs, KEYS[3] schedules by when they are due, KEYS[4] record of the new job
-- ARGV    1 schedule id, 2 when the run was due, in ms since the epoch ('': it is not one of its own time, and
--         moves nothing), 3 when the next one is ('': never), 4 '' to submit, else the runs that were
--         missed, oldest first, as JSON: [{dueMs, count}];
--         5 what happens if the job before has not ended: 'allow', 'skip' or 'replace'; then as those of
--         `submit` for one job, without payload and webhook, which the schedule has
-- returns {'moved'} it is not due any more, {'missed'}, {'overlaps', the job before}, or what `submit` returns of
--         the job, with the job in place of 0
-- atomic  see above

local it = redis.call('HMGET', KEYS[1], 'tenant', 'enabled', 'next_ms', 'payload', 'webhook', 'last_job')
local due_ms, account, new = ARGV[2], read_account(ARGV, 6), read_new_job(ARGV, 6 + ACCOUNT_ARGS)
if it[1] ~= account.tenant or (due_ms ~= '' and (not it[2] or it[3] ~= due_ms)) then
  return {'moved'}
end
local now_ms = now_us() / 1000
if due_ms ~= '' then
  redis.call('HSET', KEYS[1], 'next_ms', ARGV[3])
  if ARGV[3] == '' then
    redis.call('ZREM', KEYS[3], ARGV[1])
  else
    redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
  end
end
local function note(outcome, job)
  local run = {dueMs = tonumber(due_ms), atMs = math.floor(now_ms), outcome = outcome, job = job}
  redis.call('LPUSH', KEYS[2], cjson.encode(run))
  redis.call('LTRIM', KEYS[2], 0, 49)
end
if ARGV[4] ~= '' then
  for _, run in ipairs(cjson.decode(ARGV[4])) do
    run.atMs, run.outcome = math.floor(now_ms), 'missed'
    redis.call('LPUSH', KEYS[2], cjson.encode(run))
  end
  redis.call('LTRIM', KEYS[2], 0, 49)
  return {'missed'}
end
local former = it[6] and sibling(KEYS[1], 'job:' .. it[6])
local is_open = former and read_job(former).state
is_open = is_open and is_open ~= 'finished'
if is_open and ARGV[5] == 'skip' then
  note('overlaps')
  return {'overlaps', it[6]}
end
new.payload, new.webhook = it[4], it[5] or ''
local answer = submit({KEYS[4]}, {account}, {new}, tonumber(ARGV[6]))[1]
if answer[1] ~= 'queued' then
  note(answer[1])
  return answer
end
note('submitted', new.id)
redis.call('HSET', KEYS[1], 'last_job', new.id)
if is_open and ARGV[5] == 'replace' then
  local job = read_job(former)
  if job.state == 'running' then
    redis.call('HSET', former, 'cancel', '1')
    redis.call('PUBLISH', STOPS, 'cancel ' .. it[6])
  else
    settle(former, it[6], job, '', CANCELLED)
  end
end
return {'queued', new.id}
