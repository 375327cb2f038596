-- Takes what was left for a gateway. KEYS: its list.
local all = redis.call('LRANGE', KEYS[1], 0, -1)
if #all > 0 then
  redis.call('DEL', KEYS[1])
end
return all
