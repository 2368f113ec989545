-- Removes an API key that nobody can use any more.
--
-- KEYS[1] record of the key, KEYS[2] all keys
-- ARGV    1 id
-- returns 1 removed, 0 it was gone
-- atomic  as `create_key`

redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
