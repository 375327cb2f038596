-- Extends a lease. KEYS: leases, rows. ARGV: instance, edges, services, the lease in ms. Gives the time and whether the gateway is known,
-- not superseded, and has not left.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HGET', KEYS[1], ARGV[1])
local stream = lease and string.match(lease, '^[1-9]%d* (%d+) %d+ %d+$')
if not stream or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return { string.format('%.0f', now), '0' }
end
local text = string.format('%.0f %s %s %s', now + tonumber(ARGV[4]), stream, ARGV[2], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], text)
return { string.format('%.0f', now), '1' }
