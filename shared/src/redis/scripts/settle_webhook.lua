-- Notes how an attempt to tell a webhook ended. After the last one what it is about is kept for as long as
-- was asked for.
--
-- KEYS[1] record of what it is about, KEYS[2] its deliveries, KEYS[3] webhooks to be told
-- ARGV    1 name of the record, 2 name of the step that handed it out, 3 number of the delivery, 4 log of it,
--         5 after how many ms it is tried again ('': never), 6 how long a job or batch is to be kept once it
--         has ended, in ms
-- returns 1 noted, 0 fenced: nothing changed
-- atomic  a worker that was too slow must not write over what its successor did

local record, now_ms = KEYS[1], now_us() / 1000
local kind, id = string.match(ARGV[1], '^(%a+):(.*)$')
local it = redis.call('HMGET', record, 'deliverer', 'delivery', 'delivering')
if it[1] ~= ARGV[2] or it[2] ~= ARGV[3] or not it[3] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('HDEL', record, 'deliverer')
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[3], text(now_ms + tonumber(ARGV[5])), ARGV[1])
  -- A batch does not expire, it is removed.
  local left_ms = redis.call('PTTL', record)
  redis.call('PEXPIRE', KEYS[2], left_ms > 0 and left_ms or WEBHOOK_TTL_MS)
  return 1
end
redis.call('HDEL', record, 'delivering')
redis.call('ZREM', KEYS[3], ARGV[1])
local ended = redis.call('HMGET', record, 'dead', 'finished_us', 'tenant', 'kept_bytes', 'once')
local keep_ms = tonumber(ARGV[6])
if ended[1] then
  keep_ms = math.max(keep_ms, DEAD_LETTER_TTL_MS)
end
local over_ms = ended[2] / 1000 + keep_ms
redis.call('HSET', record, 'keep_ms', text(keep_ms))
local expiring = {'deliveries:' .. id, 'once:' .. ended[3] .. ':' .. (ended[5] or '')}
if kind == 'batch' then
  redis.call('ZADD', sibling(record, 'tending'), text(over_ms), ended[3] .. ':' .. id)
else
  if ended[4] then
    redis.call('ZADD', sibling(record, 'retained'), text(over_ms), ended[3] .. ':' .. id .. ':' .. ended[4])
  end
  for _, of in ipairs({'job:', 'out:', 'attempts:'}) do
    expiring[#expiring + 1] = of .. id
  end
end
for _, name in ipairs(expiring) do
  redis.call('PEXPIRE', sibling(record, name), text(math.max(1, over_ms - now_ms)))
end
return 1
