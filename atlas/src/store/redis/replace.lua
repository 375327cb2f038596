-- What a gateway has in one bucket of edges is this and nothing else. KEYS: the bucket. ARGV: the horizon's epoch as two halves, the
-- instance, the number of its link, then field and record of each edge. Removes what else it has there, and writes the rest as edges.lua
-- does. Gives how much was changed, then field and outcome of what did not simply come about.
local changed = 0
local keep = {}
for i = 5, #ARGV, 2 do
  keep[ARGV[i]] = true
end
local records = {}
local all = redis.call('HGETALL', KEYS[1])
local stream = tonumber(ARGV[4])
for i = 1, #all, 2 do
  local field, record = all[i], all[i + 1]
  if keep[field] then
    records[field] = record
  elseif #record >= 28 and string.sub(record, 9, 24) == ARGV[3] then
    changed = changed + redis.call('HDEL', KEYS[1], field)
  end
end
local result = { 0 }
for i = 5, #ARGV, 2 do
  local field, new = ARGV[i], ARGV[i + 1]
  local current = records[field]
  local outcome = ''
  if current == new then
    outcome = '='
  elseif current and (#current == 34 or #current == 46) then
    local c = { struct.unpack('>I4I4I4I4I4I4I4', current) }
    local n = { struct.unpack('>I4I4I4I4I4I4', new) }
    local far = c[1] > tonumber(ARGV[1]) or (c[1] == tonumber(ARGV[1]) and c[2] > tonumber(ARGV[2]))
    if not far then
      local order = 0
      for part = 1, 6 do
        if n[part] ~= c[part] then
          order = n[part] > c[part] and 1 or -1
          break
        end
      end
      if order > 0 then
        outcome = 'r' .. current
      elseif order < 0 then
        outcome = 'l' .. current
      elseif stream < c[7] then
        outcome = '='
      end
    end
  end
  local kind = string.sub(outcome, 1, 1)
  if outcome == '' or kind == 'r' then
    redis.call('HSET', KEYS[1], field, new)
    changed = changed + 1
  end
  if kind == 'r' or kind == 'l' then
    result[#result + 1] = field
    result[#result + 1] = outcome
  end
end
result[1] = changed
return result
