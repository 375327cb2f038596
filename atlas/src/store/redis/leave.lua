-- Ends a lease. KEYS: leases. ARGV: instance. Gives whether there was one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HGET', KEYS[1], ARGV[1])
local over, rest = string.match(lease or '', '^(%d+)( .*)$')
if over and tonumber(over) > now then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. rest)
  return 1
end
return 0
