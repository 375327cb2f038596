-- Writes changes of one bucket of edges; see `decide` in store.rs for the rule. KEYS: the bucket. ARGV: the horizon's epoch as two halves,
-- then for each change: 1 online or 0 offline, the field, the record or the claim. Gives for each: nothing if it was written, `=` if there
-- was nothing to change, `r` and the record that gave way, `l` and the record that it lost to.
-- Numbers are unpacked in halves: a double holds 53 bits. Strings are not compared by `<`: that goes by the locale.
local result = {}
for i = 3, #ARGV, 3 do
  local field, new = ARGV[i + 1], ARGV[i + 2]
  local current = redis.call('HGET', KEYS[1], field)
  local outcome = ''
  local order = nil
  if current and (#current == 34 or #current == 46) then
    local c = { struct.unpack('>I4I4I4I4I4I4I4', current) }
    local n = { struct.unpack('>I4I4I4I4I4I4', new) }
    local far = c[1] > tonumber(ARGV[1]) or (c[1] == tonumber(ARGV[1]) and c[2] > tonumber(ARGV[2]))
    if not far then
      order = 0
      for part = 1, 6 do
        if n[part] ~= c[part] then
          order = n[part] > c[part] and 1 or -1
          break
        end
      end
      if ARGV[i] == '1' then
        if order > 0 then
          outcome = 'r' .. current
        elseif order < 0 then
          outcome = 'l' .. current
        elseif new == current or struct.unpack('>I4', string.sub(new, 25, 28)) < c[7] then
          outcome = '='
        end
      end
    end
  end
  if ARGV[i] == '1' then
    if outcome == '' or string.sub(outcome, 1, 1) == 'r' then
      redis.call('HSET', KEYS[1], field, new)
    end
  elseif order and order >= 0 and string.sub(current, 9, 24) == string.sub(new, 9, 24) then
    redis.call('HDEL', KEYS[1], field)
  else
    outcome = '='
  end
  result[#result + 1] = outcome
end
return result
