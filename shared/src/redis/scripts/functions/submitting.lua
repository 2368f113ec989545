-- Functions that take in new jobs and list them. What jobs of one tenant have in common is read once and
-- written once, however many come in one call.

-- How many arguments describe a tenant, and a job.
local ACCOUNT_ARGS, JOB_ARGS = 8, 14

-- A tenant and what it may have, from the arguments behind `at`.
local function read_account(argv, at)
  return {tenant = argv[at + 1], cap = argv[at + 2], per_second = tonumber(argv[at + 3]), weight = argv[at + 4],
    max_open = tonumber(argv[at + 5]), max_open_bytes = tonumber(argv[at + 6]), max_kept = tonumber(argv[at + 7]),
    max_kept_bytes = tonumber(argv[at + 8])}
end

-- A job, from the arguments behind `at`.
local function read_new_job(argv, at)
  return {account = tonumber(argv[at + 1]), id = argv[at + 2], payload = argv[at + 3], reply_to = argv[at + 4],
    interactive = argv[at + 5] == '1', keep_ms = argv[at + 6], terms = argv[at + 7], once = argv[at + 8],
    request = argv[at + 9], priority = argv[at + 10] ~= '' and argv[at + 10], delay_ms = tonumber(argv[at + 11]),
    run_at_ms = tonumber(argv[at + 12]), expires_ms = tonumber(argv[at + 13]), webhook = argv[at + 14]}
end

-- Looks up what a tenant has. Its jobs that are taken in are counted here, and put down by `close_account`.
local function open_account(key, account)
  local found = redis.call('HMGET', sibling(key, 'usage:' .. account.tenant), 'jobs', 'bytes', 'cap', 'weight')
  account.jobs, account.bytes = tonumber(found[1] or '0'), tonumber(found[2] or '0')
  account.is_known = found[3] == account.cap and found[4] == account.weight
  account.kept = redis.call('ZCARD', sibling(key, 'listed:' .. account.tenant))
  account.kept_bytes = tonumber(redis.call('GET', sibling(key, 'kept:' .. account.tenant)) or '0')
  account.new_jobs, account.new_bytes, account.listed = 0, 0, {}
  account.waits, account.backlogs = {}, {}
end

-- Puts down what came of a tenant's jobs.
local function close_account(key, account)
  if account.new_jobs == 0 then
    return
  end
  count_open(key, account.tenant, account.new_jobs, account.new_bytes)
  redis.call('ZADD', sibling(key, 'listed:' .. account.tenant), unpack(account.listed))
  redis.call('ZADD', sibling(key, 'tenants'), '0', account.tenant)
  for backlog, waiting in pairs(account.backlogs) do
    redis.call('ZADD', backlog, unpack(waiting))
  end
  for name, is_first in pairs(account.waits) do
    if is_first then
      redis.call('SADD', sibling(key, 'backlogs'), name)
    end
  end
end

-- Why a tenant may not have one more job, and after how many ms to come back; nil if it may. `open` is how
-- many jobs of the shard have not ended, of at most so many.
local function refuse_job(record, account, job, open, most_of_shard)
  if account.jobs + account.new_jobs >= account.max_open then
    return 'jobs', 1000
  end
  if account.bytes + account.new_bytes + #job.payload > account.max_open_bytes then
    return 'bytes', 1000
  end
  if open >= most_of_shard then
    return 'full', 1000
  end
  local placement = placement_of(job.priority)
  if placement and not has_lines(record, placement) then
    return 'placements', 5000
  end
  if account.kept + account.new_jobs >= account.max_kept then
    return 'kept', 60000
  end
  if account.kept_bytes >= account.max_kept_bytes then
    return 'kept_bytes', 60000
  end
  return refuse(record, job.id, account.tenant, 0, account.per_second)
end

-- Has a new job stand in line, or wait; returns the field of its record that says so, and its value.
local function start(record, account, job)
  local tenant, priority = account.tenant, job.priority
  local due_ms = math.max(now_us() / 1000 + job.delay_ms, job.run_at_ms)
  if due_ms > now_us() / 1000 then
    redis.call('ZADD', sibling(record, 'delayed'), text(due_ms), job.id)
    return 'due_ms', text(due_ms)
  end
  local placement = placement_of(priority)
  local name = account_of(tenant, placement)
  if account.waits[name] == nil then
    local entry, is_first = try_line(record, job.id, tenant, priority, placement)
    if entry then
      return 'entry', entry
    end
    account.waits[name] = is_first
  end
  local backlog = backlog_of(record, name, priority)
  local waiting = account.backlogs[backlog] or {}
  account.backlogs[backlog] = waiting
  -- They all come now: those in front stay in front.
  waiting[#waiting + 1] = text(now_us() + #waiting / 2)
  waiting[#waiting + 1] = job.id
  return 'backlogged', '1'
end

-- Takes in a job that may be taken in, and lists it.
local function admit(record, account, job)
  local tenant, bytes = account.tenant, #job.payload
  if not account.is_known then
    redis.call('HSET', sibling(record, 'usage:' .. tenant), 'cap', account.cap, 'weight', account.weight)
    account.is_known = true
  end
  account.new_jobs, account.new_bytes = account.new_jobs + 1, account.new_bytes + bytes
  account.listed[#account.listed + 1] = '0'
  account.listed[#account.listed + 1] = job.id
  remember(record, job.id, tenant, job.once, job.request)
  local now, expires_ms = text(now_us()), job.expires_ms > 0 and text(now_us() / 1000 + job.expires_ms)
  if expires_ms then
    redis.call('ZADD', sibling(record, 'expiring'), expires_ms, job.id)
  end
  local where, value = start(record, account, job)
  write_job(record, now, tenant, job.payload, job.reply_to, job.interactive, where == 'entry',
    {'bytes', text(bytes), 'keep_ms', job.keep_ms, 'terms', job.terms, 'once', job.once, 'priority', job.priority,
    'webhook', job.webhook, 'expires_ms', expires_ms, where, value,
    -- It waits for its time first, and for nobody.
    'queued_us', where == 'due_ms' and value .. '000'})
end

-- Takes in jobs of some tenants, `records` being theirs, as far as may be: {'queued', 0} for each (also if it was
-- there already), {'repeated', job} if its idempotency key stands for that one, or {refusal, ms to wait}:
-- 'mismatch' the key came with another request, 'full' the queue, 'jobs' or 'bytes' the tenant has as many
-- open, 'placements' there are as many as may be, 'kept' or 'kept_bytes' as many kept, 'rate' its rate.
local function submit(records, accounts, jobs, most_of_shard)
  local answers, open = {}, tonumber(redis.call('HGET', sibling(records[1], 'usage'), 'jobs') or '0')
  for _, account in ipairs(accounts) do
    open_account(records[1], account)
  end
  for index, job in ipairs(jobs) do
    local record, account = records[index], accounts[job.account]
    local word, detail = 'queued', 0
    if redis.call('EXISTS', record) == 0 then
      word, detail = find_repeated(record, account.tenant, job.once, job.request)
      if not word then
        word, detail = refuse_job(record, account, job, open, most_of_shard)
      end
      if not word then
        admit(record, account, job)
        open, word, detail = open + 1, 'queued', 0
      end
    end
    answers[index] = {word, detail}
  end
  for _, account in ipairs(accounts) do
    close_account(records[1], account)
  end
  return answers
end
