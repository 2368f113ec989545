-- Functions about the lines that jobs stand in: a stream for each priority and, for jobs that require
-- labels, three more for each placement.

-- The stream of a priority, which names the placement too where there is one; false is the normal one.
local function stream_of(record, priority)
  return sibling(record, priority and 'jobs-' .. priority or 'jobs')
end

-- The placement that a priority names; nil if there is none.
local function placement_of(priority)
  return priority and string.match(priority, ':(.+)$') or nil
end

-- Whether there are lines of a placement, or may be.
local function has_lines(record, placement)
  local placements = sibling(record, 'placements')
  return redis.call('ZSCORE', placements, placement) or redis.call('ZCARD', placements) < MAX_PLACEMENTS
end

-- The three streams of a placement.
local function streams_of(record, placement)
  local streams = {}
  for index, priority in ipairs({'high', 'normal', 'low'}) do
    streams[index] = stream_of(record, priority .. ':' .. placement)
  end
  return streams
end

-- Makes the lines of the placement that a priority names, if they are missing, and tells the workers.
local function open_lines(record, priority)
  local placement = placement_of(priority)
  if not placement then
    return
  end
  if redis.call('ZADD', sibling(record, 'placements'), text(now_us() / 1000), placement) == 1 then
    for _, stream in ipairs(streams_of(record, placement)) do
      redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    end
    redis.call('PUBLISH', PLACEMENTS, 'placement ' .. placement)
  end
end
