-- Hands out webhooks that are to be told by now, each to one worker for a while: if that dies, they are
-- due again. A tenant that has as many under way there as it may is put off for a moment, so that its slow
-- receiver keeps nobody else waiting.
--
-- KEYS[1] webhooks to be told
-- ARGV    1 a name for this step, 2 most to hand out, 3 for how many ms, 4 most of one tenant; then tenants
--         with some under way: name, how many more they may have
-- returns {'1' if there are more than were looked at, else '0'; then for each {its name, tenant, webhook,
--         number of the delivery, log of it so far ('': none), terms}}
-- atomic  two workers must not tell one webhook at the same time

local LOOKED_AT = 200
local now_ms, most = now_us() / 1000, tonumber(ARGV[2])
local room = {}
for index = 5, #ARGV, 2 do
  room[ARGV[index]] = tonumber(ARGV[index + 1])
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now_ms), 'LIMIT', 0, LOOKED_AT)
local answers = {}
for place, name in ipairs(due) do
  local record = sibling(KEYS[1], name)
  local it = redis.call('HMGET', record, 'tenant', 'webhook', 'delivery', 'delivering', 'terms')
  if not it[2] or not it[4] then
    redis.call('ZREM', KEYS[1], name)
  else
    local left = room[it[1]] or tonumber(ARGV[4])
    if left <= 0 then
      redis.call('ZADD', KEYS[1], text(now_ms + 500 + place), name)
    elseif #answers < most then
      room[it[1]] = left - 1
      redis.call('ZADD', KEYS[1], text(now_ms + tonumber(ARGV[3])), name)
      redis.call('HSET', record, 'deliverer', ARGV[1])
      local log = redis.call('HGET', sibling(record, 'deliveries:' .. string.match(name, ':(.*)$')), it[3])
      answers[#answers + 1] = {name, it[1], it[2], it[3], log or '', it[5] or ''}
    end
  end
end
return {#due == LOOKED_AT and '1' or '0', answers}
