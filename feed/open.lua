-- Looks at the log for a tail that starts, comes back, or waited in vain.
-- KEYS[1] log, [2] meta
-- ARGV[1] nonce of a new life, [2] newest id that the tail has read, '' none, [3] the id after it
-- Returns {epoch, origin, first kept entry, newest entry}.
local known = ARGV[2] ~= '' and ARGV[2]
local epoch, origin = life(KEYS[1], KEYS[2], ARGV[1], known, ARGV[3])
return {epoch, origin,
  redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1],
  redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]}
