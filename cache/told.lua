-- Tells what somebody was told of. A script, since only scripts never go to a replica, which may not know yet.
-- KEYS one a tag
return redis.call('MGET', unpack(KEYS))
