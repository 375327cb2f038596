-- Forgets a gateway unless it has a lease again. KEYS: rows, leases. ARGV: instance. Gives whether there was something to forget.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = tonumber(string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+) '))
-- As `holds` in store.rs has it.
if over and over > now and over <= now + 300000 then
  return 0
end
return redis.call('HDEL', KEYS[1], ARGV[1]) + redis.call('HDEL', KEYS[2], ARGV[1])
