-- Makes a gateway known. KEYS: rows, leases. ARGV: its instance, its row, the lease in ms. Gives the time and the number of its link.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  -- The same row under another instance: an earlier life.
  if rows[i] ~= ARGV[1] and rows[i + 1] == ARGV[2] then
    local lease = redis.call('HGET', KEYS[2], rows[i])
    local over, rest = string.match(lease or '', '^(%d+)( .*)$')
    if over and tonumber(over) > now then
      redis.call('HSET', KEYS[2], rows[i], string.format('%.0f', now) .. rest)
    end
  end
end
local stream = 1
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then
  stream = (tonumber(string.match(before, '^%d+ (%d+) ')) or 0) + 1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f %.0f 0 0', now + tonumber(ARGV[3]), stream))
return { string.format('%.0f', now), string.format('%.0f', stream) }
