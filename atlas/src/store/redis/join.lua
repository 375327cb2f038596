-- Makes a gateway known. KEYS: rows, leases. ARGV: its instance, its row, the lease in ms, its instance in hexadecimal,
-- 1 if it had joined before, how many rows there may be, and how many with those that come in the place of another. Gives the time, the number of its link, and who superseded it and lives, or
-- "full": then it has not joined.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As `holds` in store.rs has it.
local function lives(instance)
  local over = tonumber(string.match(redis.call('HGET', KEYS[2], instance) or '', '^(%d+) '))
  return over and over > now and over <= now + 300000
end
local before = redis.call('HGET', KEYS[2], ARGV[1]) or ''
local by = string.match(before, '^%d+ %d+ %d+ %d+ (%x+)$')
if by then
  local instance = string.gsub(by, '%x%x', function(digits) return string.char(tonumber(digits, 16)) end)
  if lives(instance) then
    -- As long as it tries it is not forgotten: else it would come as a new one and take over.
    redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', now) .. string.match(before, '^%d+(.*)$'))
    return { string.format('%.0f', now), '0', by }
  end
end
local rows = redis.call('HGETALL', KEYS[1])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  local room = tonumber(ARGV[6])
  for i = 1, #rows, 2 do
    if rows[i + 1] == ARGV[2] then
      room = tonumber(ARGV[7])
    end
    if ARGV[5] == '1' and rows[i + 1] == ARGV[2] and lives(rows[i]) then
      local hex = string.gsub(rows[i], '.', function(byte) return string.format('%02x', string.byte(byte)) end)
      return { string.format('%.0f', now), '0', hex }
    end
  end
  if #rows >= 2 * room then
    return { string.format('%.0f', now), '0', 'full' }
  end
end
for i = 1, #rows, 2 do
  -- The same row under another instance: an earlier life.
  if rows[i] ~= ARGV[1] and rows[i + 1] == ARGV[2] then
    local lease = redis.call('HGET', KEYS[2], rows[i]) or ''
    local over, rest = string.match(lease, '^(%d+)( %d+ %d+ %d+)')
    if over then
      local least = string.format('%.0f', math.min(tonumber(over), now))
      redis.call('HSET', KEYS[2], rows[i], least .. rest .. ' ' .. ARGV[4])
    end
  end
end
local stream = (tonumber(string.match(before, '^%d+ (%d+) ')) or 0) + 1
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f %.0f 0 0', now + tonumber(ARGV[3]), stream))
return { string.format('%.0f', now), string.format('%.0f', stream), '' }
