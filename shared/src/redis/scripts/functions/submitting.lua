-- A function that takes in a new job and lists it.

-- Takes in a job as `submit.lua` describes, `argv` being its arguments; returns what that returns.
local function submit(record, argv)
  if redis.call('EXISTS', record) == 1 then
    return {'queued', 0}
  end
  local word, job = find_repeated(record, argv[2], argv[10], argv[11])
  if word then
    return {word, job}
  end
  local refusal, wait_ms = refuse_open(record, argv[2], #argv[3], tonumber(argv[18]), tonumber(argv[19]), tonumber(argv[12]))
  if refusal then
    return {refusal, wait_ms}
  end
  local placement = placement_of(argv[13])
  if placement and not has_lines(record, placement) then
    return {'placements', 5000}
  end
  local too_many = refuse_to_keep(record, argv[2], tonumber(argv[20]), tonumber(argv[21]))
  if too_many then
    return {too_many, 60000}
  end
  refusal, wait_ms = refuse(record, argv[1], argv[2], 0, tonumber(argv[7]))
  if refusal then
    return {refusal, wait_ms}
  end
  local now, id, bytes, priority = now_us(), argv[1], text(#argv[3]), argv[13] ~= '' and argv[13]
  local expires_ms = argv[16] ~= '0' and text(now / 1000 + tonumber(argv[16]))
  write_job(record, text(now), argv[2], argv[3], argv[4], argv[5] == '1', false,
    {'bytes', bytes, 'keep_ms', argv[8], 'terms', argv[9], 'once', argv[10], 'priority', priority,
    'webhook', argv[22], 'expires_ms', expires_ms})
  count_open(record, argv[2], bytes)
  redis.call('HSET', sibling(record, 'usage:' .. argv[2]), 'cap', argv[6], 'weight', argv[17])
  list(record, id, argv[2], argv[10], argv[11])
  if expires_ms then
    redis.call('ZADD', sibling(record, 'expiring'), expires_ms, id)
  end
  local due_ms = math.max(now / 1000 + tonumber(argv[14]), tonumber(argv[15]))
  if due_ms <= now / 1000 then
    enter(record, id, argv[2], priority)
  else
    delay(record, id, argv[2], due_ms)
  end
  return {'queued', 0}
end
