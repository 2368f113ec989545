-- Turns stream entries that a worker has just read or claimed into running jobs. The worker that
-- takes the call that opens a session becomes the session's owner.
--
-- KEYS[1] stream, KEYS[2..] record of each entry's job
-- ARGV    1 worker, 2 most jobs to start, 3 a name for this call if the entries were taken from a
--         silent worker, '' if they are new ones; then for each entry: entry id, job id
-- returns for each entry {outcome, attempt, waited in us, age in us, tenant, payload, session, terms,
--         earlier tries, number of its first event}; outcome is
--         'taken'     runs now,
--         'released'  over the number asked for: back in the stream as it was,
--         'ended'     delivered too often, too late, of a batch that stops, or not to be started a second time: ended,
--         'missing'   has no record, or not one that expects this entry: entry removed,
--         'lost'      belongs to another worker by now: untouched
-- atomic  between reading an entry and starting its job the entry may change hands

local stream, worker, theft = KEYS[1], ARGV[1], ARGV[3]
local room = tonumber(ARGV[2])
local is_stolen = theft ~= ''
local now = now_us()
local answers = {}
for index = 1, #KEYS - 1 do
  local record, entry, id = KEYS[index + 1], ARGV[2 + 2 * index], ARGV[3 + 2 * index]
  local outcome, attempt, waited, age, tenant, payload, session = 'taken', 0, 0, 0, '', '', ''
  local terms, tries, first_event = '', 0, 0
  if not owns(stream, worker, entry) then
    outcome = 'lost'
  else
    local job = redis.call('HMGET', record, 'state', 'entry', 'attempt', 'queued_us', 'worker', 'tenant', 'payload',
      'session', 'shown', 'cancel', 'theft', 'enqueued_us', 'keep_ms', 'terms',
      'tries', 'expires_ms', 'started_us', 'batch')
    attempt = tonumber(job[3] or '0')
    local is_running, of_session = job[1] == 'running', job[8]
    -- A repeated call: the former answer was lost on its way.
    local again = is_running and job[5] == worker and (not is_stolen or job[11] == theft)
    local is_loss = is_stolen and is_running and not again
    local is_listed = job[13]
    local may_expire = job[16] and attempt == 0 and not job[15]
    if is_loss and is_listed and job[2] == entry then
      -- In ms: a longer number would be rounded.
      local started_ms = math.floor(tonumber(job[17]) / 1000)
      local lost = {attempt = attempt, worker = job[5], startedMs = started_ms,
        endedMs = math.floor(now / 1000), outcome = 'worker_lost'}
      if job[9] then
        -- Whoever looks at the attempt reads what it wrote from there: it may be no text, and long.
        lost.firstEvent = tonumber(redis.call('HGET', record, 'first_event') or '0')
        lost.endEvent = count_events(record, id)
      end
      note_attempt(record, id, cjson.encode(lost))
    end
    if not job[1] or job[1] == 'finished' or job[2] ~= entry or not job[7] then
      outcome = 'missing'
      drop(stream, entry)
    elseif again and room > 0 then
      room = room - 1
    elseif is_loss and job[10] then
      outcome = 'ended'
      give_up(record, id, CANCELLED)
    elseif is_loss and of_session then
      outcome = 'ended'
      give_up(record, id, SESSION_LOST)
    elseif job[18] and not again and redis.call('HGET', sibling(record, 'batch:' .. job[18]), 'state') == 'stopping' then
      outcome = 'ended'
      give_up(record, id, CANCELLED)
    elseif may_expire and now / 1000 > tonumber(job[16]) then
      outcome = 'ended'
      give_up(record, id, EXPIRED)
    elseif not again and (attempt >= MAX_DELIVERIES or (is_loss and job[9] and not is_listed)) then
      outcome = 'ended'
      give_up(record, id, WORKER_LOST, true)
    elseif room < 1 then
      outcome = 'released'
      requeue(stream, record, id, again and attempt - 1 or attempt)
    else
      room = room - 1
      attempt = attempt + 1
      if may_expire then
        redis.call('ZREM', sibling(record, 'expiring'), id)
      end
      redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'worker', worker, 'started_us', text(now), 'theft', theft)
      if of_session then
        local opened = sibling(record, 'session:' .. of_session)
        redis.call('HSET', opened, 'worker', worker, 'running', id)
        sessions().lease(opened, of_session, now / 1000 + LEASE_MS)
      end
    end
    if outcome == 'taken' then
      -- After a failover the clock may be another one.
      waited, age = math.max(0, now - tonumber(job[4])), math.max(0, now - tonumber(job[12]))
      tenant, payload, session = job[6], job[7], of_session or ''
      if is_listed then
        terms, tries = job[14], tonumber(job[15] or '0')
        if job[9] then
          first_event = count_events(record, id)
          redis.call('HSET', record, 'first_event', text(first_event))
        end
      end
    end
  end
  answers[index] = {outcome, attempt, waited, age, tenant, payload, session, terms, tries, first_event}
end
return answers
