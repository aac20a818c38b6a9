-- Notes events that wait, and keeps the number of records bounded.
-- KEYS[1] index  [2…] record of each event
-- ARGV[1] queued at, µs  [2] seconds to keep them  [3] members below this are old
-- ARGV[4] records to keep  [5] record keys without the id
-- ARGV[6…] of each event its JSON and its member of the index
-- A record that a worker has moved on is left alone: a fast one has finished before this is written.
local n = #KEYS - 1
for i = 1, n do
  local key = KEYS[i + 1]
  local status = redis.call('HGET', key, 'status')
  if not status or status == 'failed' then
    if status then
      redis.call('HDEL', key, 'mark') -- of an earlier life: what it made void may be filled again
    end
    redis.call('HSET', key, 'event', ARGV[4 + 2 * i], 'queued', ARGV[1], 'status', 'queued')
    redis.call('EXPIRE', key, ARGV[2])
    redis.call('ZADD', KEYS[1], 0, ARGV[5 + 2 * i])
  end
end

local surplus = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[4])
if surplus > 0 then
  local old = redis.call('ZRANGE', KEYS[1], 0, math.min(surplus, 100 + n) - 1)
  for _, m in ipairs(old) do
    redis.call('DEL', ARGV[5] .. string.sub(m, 18))
  end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #old - 1)
else
  for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '-', '(' .. ARGV[3], 'LIMIT', 0, 100)) do
    if redis.call('EXISTS', ARGV[5] .. string.sub(m, 18)) == 0 then
      redis.call('ZREM', KEYS[1], m)
    end
  end
end
return n
