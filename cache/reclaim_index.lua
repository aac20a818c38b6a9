-- Notes a key in a shard of an index, and trims what has expired: at most 100
-- members, so that a write never pays for a whole tag that ended at once.
-- KEYS[1] shard   ARGV[1] key, [2] when its entry expires, ms
-- The shard itself lives as long as its last member. An expiry never goes
-- down: the writer of an older one may come late.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local gone = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
if #gone > 0 then redis.call('ZREM', KEYS[1], unpack(gone)) end
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last[2])))
return 1
