-- Moves the mark of a node, and forgets nodes that are gone.
-- KEYS[1] marks (hash: node → number)  [2] when each was last used (sorted set, unix seconds)
-- ARGV[1] node  [2] from  [3] to  [4] now  [5] nodes unused since this second are gone
-- Numbers are compared as text: as Lua's doubles, great ones would be equal to their neighbours.
-- Returns the number that stood there, '0' for none.
local found = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if found == ARGV[2] and ARGV[2] ~= ARGV[3] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
if found ~= '0' or ARGV[2] ~= ARGV[3] then
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[5], 'LIMIT', 0, 10)) do
  redis.call('HDEL', KEYS[1], node)
  redis.call('ZREM', KEYS[2], node)
end
return found
