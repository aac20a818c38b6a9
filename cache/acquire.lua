-- Takes the right to ask the origin for a key, or marks that right as waited for. What others stored meanwhile comes
-- first: then nothing is taken.
-- KEYS[1] entry, [2] fill lease
-- ARGV[1] token of the lease, [2] its life in ms, [3] the first 34 bytes of the entry that the caller has ('' none)
-- Returns {1, ''} when taken, {0, entry} when another entry is there, {0, ''} when another process holds the lease: the
-- end of that fill is published then.
local head = redis.call('GETRANGE', KEYS[1], 0, 33)
if head ~= '' and head ~= ARGV[3] then return {0, redis.call('GET', KEYS[1])} end
local holder = redis.call('GET', KEYS[2])
if not holder or holder == ARGV[1] or holder == ARGV[1] .. '+' then -- the client may have sent this twice
  redis.call('SET', KEYS[2], holder or ARGV[1], 'PX', ARGV[2])
  return {1, ''}
end
if string.sub(holder, -1) ~= '+' then redis.call('APPEND', KEYS[2], '+') end
return {0, ''}
