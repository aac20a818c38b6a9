-- Looks at the log for a tail that starts, comes back, or waited in vain.
-- KEYS[1] log, [2] meta
-- ARGV[1] nonce of a new life, [2] epoch that the tail has read, '' none, [3] newest id
--      that it has read, [4] an id after it
-- Returns {epoch, origin, first kept entry, newest entry}.
local known = ARGV[3] ~= '' and ARGV[3]
local epoch, origin = life(KEYS[1], KEYS[2], ARGV[1], ARGV[2], known, known and ARGV[4])
return {epoch, origin,
  redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1],
  redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]}
