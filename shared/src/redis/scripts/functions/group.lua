-- A function about how far the workers have read a stream.

-- The last entry that was handed to a worker.
local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  local group = groups.err == nil and groups[1] or {}
  for index = 1, #group, 2 do
    if group[index] == 'last-delivered-id' then
      return group[index + 1]
    end
  end
  return '0-0'
end

