-- Ends a fill that stored nothing.
-- KEYS[1] fill lease   ARGV[1] token of the lease, [2] channel of those who wait for it
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then return redis.call('DEL', KEYS[1]) end
if holder == ARGV[1] .. '+' then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], '')
end
return 0
