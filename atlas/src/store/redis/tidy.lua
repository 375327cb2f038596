-- Removes fields that are no records, unless they have become some. KEYS: the bucket. ARGV: field and value of each. Gives how many.
local removed = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    removed = removed + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return removed
