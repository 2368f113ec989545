-- Creates the consumer groups of a placement's lines where they are missing.
--
-- KEYS[1] placements
-- ARGV    1 the placement
-- returns 1, or 0: there is no such placement any more
-- atomic  lines of a placement that is not known would never go

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
for _, stream in ipairs(streams_of(KEYS[1], ARGV[1])) do
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
end
return 1
