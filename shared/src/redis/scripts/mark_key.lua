-- Notes something about an API key.
--
-- KEYS[1] record of the key
-- ARGV    1 field, 2 value
-- returns 1 noted, 0 there is no such key (any more)
-- atomic  a key that is removed in the same moment must not come back as half a record

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
