-- Writes down a new API key.
--
-- KEYS[1] record of the key, KEYS[2] all keys
-- ARGV    1 id, 2 hash, 3 what is known of it, 4 most keys
-- returns 1 it is there (also if it was already), 0 there are too many
-- atomic  a record that is not among all keys could never be listed, revoked or removed

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return 1
end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], 'facts', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
