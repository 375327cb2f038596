-- What a gateway has in one bucket of services is this and nothing else. KEYS: the bucket. ARGV: the instance, then field and record of
-- each. Gives how much was changed.
local changed = 0
local keep = {}
for i = 2, #ARGV, 2 do
  keep[ARGV[i]] = ARGV[i + 1]
end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local field, record = all[i], all[i + 1]
  if string.sub(field, 9, 24) == ARGV[1] then
    if not keep[field] then
      changed = changed + redis.call('HDEL', KEYS[1], field)
    elseif record == keep[field] then
      keep[field] = nil
    end
  end
end
for field, record in pairs(keep) do
  redis.call('HSET', KEYS[1], field, record)
  changed = changed + 1
end
return changed
