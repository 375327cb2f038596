-- Ends a lease for good. KEYS: leases. ARGV: instance, number of its link. Gives whether that was its newest.
local lease = redis.call('HGET', KEYS[1], ARGV[1])
local stream, rest = string.match(lease or '', '^%d+ (%d+)( .*)$')
if stream ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], '0 ' .. stream .. rest)
return 1
