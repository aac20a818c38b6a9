-- Forgets a node that has stopped reading from its mirror, so that no barrier waits for it.
-- KEYS[1] ack, [2] live   ARGV[1] node
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('ZREM', KEYS[2], ARGV[1])
