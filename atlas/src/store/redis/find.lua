-- Looks up single fields of many hashes. KEYS: the hashes. ARGV: a field of each.
local found = {}
for at = 1, #KEYS do
  found[at] = redis.call('HGET', KEYS[at], ARGV[at])
end
return found
