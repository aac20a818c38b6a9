-- Keeps a fill lease while its fetch goes on.
-- KEYS[1] fill lease   ARGV[1] token of the lease, [2] its life in ms
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] or holder == ARGV[1] .. '+' then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
