-- Opens the record of an event that a worker begins, counts the attempt, and
-- keeps the number of records bounded.
-- KEYS[1] record  [2] index  [3] seen
-- ARGV[1] the event, JSON  [2] queued at, µs  [3] seconds to keep it
-- ARGV[4] its member of the index  [5] members below this are old  [6] records to keep
-- ARGV[7] record keys without the id
-- Returns {position if seen, mark of an earlier attempt, number of this attempt}.
local status = redis.call('HGET', KEYS[1], 'status')
local over = status == 'failed' or status == 'done' or status == 'ignored'
local seen = redis.call('GET', KEYS[3]) or ''
if over then
  redis.call('HDEL', KEYS[1], 'mark') -- of an earlier life: what it made void may be filled again
end
redis.call('HSET', KEYS[1], 'event', ARGV[1], 'queued', ARGV[2], 'status', 'running')
local attempt = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[4])

local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[6])
if surplus > 0 then
  for _, m in ipairs(redis.call('ZRANGE', KEYS[2], 0, math.min(surplus, 100) - 1)) do
    redis.call('DEL', ARGV[7] .. string.sub(m, 18))
    redis.call('ZREM', KEYS[2], m)
  end
else
  for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '-', '(' .. ARGV[5], 'LIMIT', 0, 100)) do
    if redis.call('EXISTS', ARGV[7] .. string.sub(m, 18)) == 0 then
      redis.call('ZREM', KEYS[2], m)
    end
  end
end
return {seen, redis.call('HGET', KEYS[1], 'mark') or '', attempt}
