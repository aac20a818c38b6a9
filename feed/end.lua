-- Appends that a session is over, for the nodes that have its streams.
-- KEYS[1] log, [2] meta
-- ARGV[1] nonce of a new life, [2] entries to keep, [3] the session
-- Returns the id of the entry.
life(KEYS[1], KEYS[2], ARGV[1], false, false, false)
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 's', ARGV[3])
