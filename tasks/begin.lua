-- Opens the record of an event, and keeps the number of records bounded.
-- KEYS[1] record  [2] index  [3] seen
-- ARGV[1] 'queue': the event waits; leaves a record alone that a worker has moved on:
--         a fast one has finished before the queue gets to write this
--         'worker': the event runs; counts an attempt
-- ARGV[2] the event, JSON  [3] queued at, µs  [4] seconds to keep it
-- ARGV[5] its member of the index  [6] members below this are old  [7] records to keep
-- ARGV[8] record keys without the id
-- Returns {position if seen, mark of an earlier attempt, number of this attempt}.
local status = redis.call('HGET', KEYS[1], 'status')
local over = status == 'failed' or status == 'done' or status == 'ignored'
local seen = redis.call('GET', KEYS[3]) or ''
if ARGV[1] == 'queue' and status and status ~= 'failed' then
  return {seen, '', 0}
end
if over then
  redis.call('HDEL', KEYS[1], 'mark') -- of an earlier life: what it made void may be filled again
end
local attempt = 0
if ARGV[1] == 'queue' then
  redis.call('HSET', KEYS[1], 'event', ARGV[2], 'queued', ARGV[3], 'status', 'queued')
else
  redis.call('HSET', KEYS[1], 'event', ARGV[2], 'queued', ARGV[3], 'status', 'running')
  attempt = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[5])

local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[7])
if surplus > 0 then
  for _, m in ipairs(redis.call('ZRANGE', KEYS[2], 0, math.min(surplus, 100) - 1)) do
    redis.call('DEL', ARGV[8] .. string.sub(m, 18))
    redis.call('ZREM', KEYS[2], m)
  end
else
  for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '-', '(' .. ARGV[6], 'LIMIT', 0, 100)) do
    if redis.call('EXISTS', ARGV[8] .. string.sub(m, 18)) == 0 then
      redis.call('ZREM', KEYS[2], m)
    end
  end
end
return {seen, redis.call('HGET', KEYS[1], 'mark') or '', attempt}
