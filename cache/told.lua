-- Tells who was told. A script, since only scripts never go to a replica, which may not know yet.
-- KEYS the seqs of what was told last, one a tag
return redis.call('MGET', unpack(KEYS))
