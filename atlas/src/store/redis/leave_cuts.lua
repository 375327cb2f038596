-- Leaves word for a gateway. KEYS: its list. ARGV: how many are kept, for how many seconds, then each.
for i = 3, #ARGV do
  redis.call('RPUSH', KEYS[1], ARGV[i])
end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[1]), -1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return '1'
