-- Functions about batches; made when they are asked for, as jobs of no batch do without.
batches = function()
  local it = {}

  -- What the items of all batches of a tenant may take up in the queue at once: twice what may stand in
  -- line, so that the next ones are there when the first have ended. Batches share it evenly.
  local LEAST_OPEN, MOST_OPEN = 32, 2048

  -- Changes what a tenant's batches take up: 'bytes' of items, 'results' of theirs. Less is `0 - bytes`, as `-bytes`
  -- of 0 would be -0, which Redis does not take for a number.
  function it.account(key, tenant, what, bytes)
    local batched = sibling(key, 'batched:' .. tenant)
    redis.call('HINCRBY', batched, what, bytes)
    local left = redis.call('HMGET', batched, 'bytes', 'results')
    if tonumber(left[1] or '0') <= 0 and tonumber(left[2] or '0') <= 0 then
      redis.call('DEL', batched)
    end
  end

  -- Has a batch be looked at again after so many ms.
  function it.look_after(batch, id, tenant, wait_ms)
    redis.call('ZADD', sibling(batch, 'tending'), text(now_us() / 1000 + wait_ms), tenant .. ':' .. id)
  end

  -- How many items of a batch, which have this placement, may be in the queue at once.
  function it.most_open(batch, tenant, placement)
    local most = math.max(LEAST_OPEN, math.min(MOST_OPEN, 2 * window(batch, tenant, placement)))
    local running = tonumber(redis.call('HGET', sibling(batch, 'usage:' .. tenant), 'batches') or '1')
    return math.max(2, math.floor(most / math.max(1, running)))
  end

  -- Removes what is left of a batch's items: they may hold secrets.
  function it.drop_items(batch, id, tenant)
    local left = redis.call('HGET', batch, 'bytes')
    if left then
      it.account(batch, tenant, 'bytes', 0 - left)
    end
    redis.call('HDEL', batch, 'base', 'bytes')
    redis.call('UNLINK', sibling(batch, 'batch-items:' .. id))
  end

  -- Removes a batch of which nothing is in the queue.
  function it.remove(batch, id, tenant)
    it.drop_items(batch, id, tenant)
    local kept = redis.call('HMGET', batch, 'results', 'once')
    if kept[1] then
      it.account(batch, tenant, 'results', 0 - kept[1])
    end
    if kept[2] then
      redis.call('DEL', sibling(batch, 'once:' .. tenant .. ':' .. kept[2]))
    end
    redis.call('UNLINK', batch, sibling(batch, 'batch-results:' .. id), sibling(batch, 'deliveries:' .. id))
    redis.call('ZREM', sibling(batch, 'webhooks'), 'batch:' .. id)
    redis.call('DEL', sibling(batch, 'batch-open:' .. id))
    redis.call('ZREM', sibling(batch, 'batches:' .. tenant), id)
    redis.call('ZREM', sibling(batch, 'tending'), tenant .. ':' .. id)
  end

  -- Notes the end of a batch: this is the one place where that is known.
  function it.finish(batch, id, tenant)
    local at = redis.call('HMGET', batch, 'keep_ms', 'once', 'outcome', 'webhook')
    local keep_ms = at[1]
    redis.call('HSET', batch, 'state', 'finished', 'finished_us', text(now_us()), 'outcome', at[3] or 'completed')
    redis.call('HDEL', batch, 'low', 'checked')
    it.drop_items(batch, id, tenant)
    if at[4] then
      -- Its webhook is told from the record, so that is kept for as long as this may take.
      keep_ms = text(math.max(tonumber(keep_ms), WEBHOOK_TTL_MS))
      redis.call('HSET', batch, 'keep_ms', keep_ms)
      announce(batch, 'batch:' .. id)
    end
    it.look_after(batch, id, tenant, keep_ms)
    if at[2] then
      redis.call('PEXPIRE', sibling(batch, 'once:' .. tenant .. ':' .. at[2]), keep_ms)
    end
    local usage = sibling(batch, 'usage:' .. tenant)
    if redis.call('HINCRBY', usage, 'batches', -1) <= 0 then
      redis.call('HDEL', usage, 'batches')
      if tonumber(redis.call('HGET', usage, 'jobs') or '0') <= 0 then
        redis.call('DEL', usage)
      end
    end
  end

  -- Ends a batch none of whose items is left; true if it did.
  function it.finish_if_over(batch, id, tenant)
    local at = redis.call('HMGET', batch, 'state', 'next', 'items')
    local is_open = at[1] == 'running' or at[1] == 'stopping'
    if is_open and at[2] == at[3] and redis.call('EXISTS', sibling(batch, 'batch-open:' .. id)) == 0 then
      it.finish(batch, id, tenant)
      return true
    end
    return false
  end

  -- Lets no further item of a running batch begin. Those in the queue are still to be stopped.
  function it.stop(batch, id, tenant, why)
    local at = redis.call('HMGET', batch, 'next', 'items')
    redis.call('HSET', batch, 'state', 'stopping', 'outcome', why, 'next', at[2], 'not_begun', at[2] - at[1])
    it.drop_items(batch, id, tenant)
    it.look_after(batch, id, tenant, 0)
  end

  -- Stops items of a batch that are in the queue: those that wait end at once, of those that run the worker
  -- is told, directly if the caller may, else with the next renewal of its lease.
  function it.stop_items(batch, names, may_tell)
    for _, name in ipairs(names) do
      local record = sibling(batch, 'job:' .. name)
      local job = read_job(record)
      if job.state == 'queued' then
        settle(record, name, job, '', CANCELLED)
      elseif job.state == 'running' then
        redis.call('HSET', record, 'cancel', '1')
        if may_tell then
          redis.call('PUBLISH', WORKERS .. job.worker, 'cancel ' .. name)
        end
      end
    end
  end

  -- What an item's ending is counted as.
  local function outcome_of(ending, summary)
    if not summary or summary == '' then
      -- The queue's own, or that of an item which was given up.
      return string.match(ending, '"code":"([A-Z_]+)"') == 'CANCELLED' and 'cancelled' or 'error'
    end
    local short = cjson.decode(summary)
    if short.outcome == 'exited' then
      return short.exitCode == 0 and 'succeeded' or 'nonzero_exit'
    end
    local known = {timed_out = true, out_of_memory = true, cancelled = true}
    return known[short.outcome] and short.outcome or 'error'
  end

  -- Takes the job of an item out of the queue. What is left of it fences late workers and tells the same to
  -- one that commits again; if somebody follows it, it can be read for a while.
  local function take_out(record, id, job, ended_by, ending)
    local at = redis.call('HMGET', record, 'due_ms', 'noted', 'backlogged')
    local placement = placement_of(job.priority)
    if job.entry then
      drop(stream_of(record, job.priority), job.entry)
    end
    if at[1] then
      redis.call('ZREM', sibling(record, 'delayed'), id)
    end
    if at[2] then
      redis.call('DEL', sibling(record, 'attempts:' .. id))
    end
    if at[3] then
      redis.call('ZREM', backlog_of(record, account_of(job.tenant, placement), job.priority), id)
    end
    if job.counted then
      free_place(record, id, job.tenant, placement)
    end
    if job.reply_to and job.reply_to ~= '' then
      redis.call('HSET', record, 'state', 'finished', 'result', ending, 'ended_by', ended_by)
      redis.call('HDEL', record, 'payload')
      redis.call('PEXPIRE', record, RESULT_TTL_MS)
      return
    end
    redis.call('DEL', record)
    if ended_by ~= '' then
      redis.call('HSET', record, 'state', 'finished', 'entry', job.entry, 'attempt', job.attempt,
        'worker', job.worker, 'ended_by', ended_by)
      redis.call('PEXPIRE', record, LEASE_MS)
    end
  end

  -- Ends the job of an item, as `settle` does others: its ending goes to the results of its batch.
  function it.settle(record, id, job, ended_by, ending, summary)
    local batch, open = sibling(record, 'batch:' .. job.batch), sibling(record, 'batch-open:' .. job.batch)
    local item, name = redis.call('HGET', open, id), redis.call('HGET', record, 'name')
    take_out(record, id, job, ended_by, ending)
    local heard = 0
    if job.reply_to and job.reply_to ~= '' then
      heard = tell(job.reply_to, #ending <= PUBLISH_LIMIT_BYTES and id .. ' ' .. ending or id)
    end
    if not item then
      return heard, false
    end
    redis.call('HDEL', open, id)
    local number, results = redis.call('HINCRBY', batch, 'ended', 1), sibling(record, 'batch-results:' .. job.batch)
    if name then
      redis.call('XADD', results, text(number) .. '-0', 'i', item, 'e', ending, 'n', name)
    else
      redis.call('XADD', results, text(number) .. '-0', 'i', item, 'e', ending)
    end
    local bytes, outcome = #ending + #(name or '') + 32, outcome_of(ending, summary)
    redis.call('HINCRBY', batch, 'results', bytes)
    it.account(batch, job.tenant, 'results', bytes)
    redis.call('HINCRBY', batch, outcome, 1)
    local is_failure = outcome ~= 'succeeded' and outcome ~= 'cancelled'
    local failed = is_failure and redis.call('HINCRBY', batch, 'failed', 1) or 0
    local at = redis.call('HMGET', batch, 'state', 'next', 'items', 'low', 'budget')
    if at[1] == 'running' and is_failure and at[5] and failed > tonumber(at[5]) then
      it.stop(batch, job.batch, job.tenant, 'failure_budget')
      at[2] = at[3]
    end
    if at[2] ~= at[3] then
      return heard, at[4] and redis.call('HLEN', open) == tonumber(at[4])
    end
    it.finish_if_over(batch, job.batch, job.tenant)
    return heard, false
  end

  return it
end
