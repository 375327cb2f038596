-- What a gateway has in one bucket of services is this and nothing else. KEYS: the bucket. ARGV: the instance, the number of its link,
-- then field and record of each. A field belongs to one gateway: it is compared only with its own earlier records. Gives how much was
-- changed.
local changed = 0
local keep = {}
for i = 3, #ARGV, 2 do
  keep[ARGV[i]] = ARGV[i + 1]
end
local stream = tonumber(ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local field, record = all[i], all[i + 1]
  if string.sub(field, 9, 24) == ARGV[1] and #record >= 46 then
    local new = keep[field]
    local later = struct.unpack('>I4', string.sub(record, 25, 28)) > stream
    if new then
      local c = { struct.unpack('>I4I4', record) }
      local n = { struct.unpack('>I4I4', new) }
      if record == new or c[1] > n[1] or (c[1] == n[1] and (c[2] > n[2] or (c[2] == n[2] and later))) then
        keep[field] = nil
      end
    elseif not later then
      changed = changed + redis.call('HDEL', KEYS[1], field)
    end
  end
end
for field, record in pairs(keep) do
  redis.call('HSET', KEYS[1], field, record)
  changed = changed + 1
end
return changed
