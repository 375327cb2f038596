-- Writes changes of one bucket of services. KEYS: the bucket. ARGV for each change: 1 online or 0 offline, the field, the record or the
-- claim. A field belongs to one gateway, so a claim is compared only with its own earlier ones. Gives how many were changed.
local changed = 0
for i = 1, #ARGV, 3 do
  local field, new = ARGV[i + 1], ARGV[i + 2]
  local current = redis.call('HGET', KEYS[1], field)
  local order = 1
  if current and #current >= 46 then
    local c = { struct.unpack('>I4I4', current) }
    local n = { struct.unpack('>I4I4', new) }
    order = n[1] ~= c[1] and n[1] - c[1] or n[2] - c[2]
    if order == 0 and ARGV[i] == '1' then
      order = struct.unpack('>I4', string.sub(new, 25, 28)) - struct.unpack('>I4', string.sub(current, 25, 28))
    end
  end
  if order >= 0 then
    if ARGV[i] == '0' then
      changed = changed + redis.call('HDEL', KEYS[1], field)
    elseif new ~= current then
      redis.call('HSET', KEYS[1], field, new)
      changed = changed + 1
    end
  end
end
return changed
