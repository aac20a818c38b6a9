-- Stores an entry, unless one of a newer token in the same epoch is there, and ends the fill.
-- KEYS[1] entry, [2] fill lease
-- ARGV[1] entry, [2] life in ms, [3] token of the lease, [4] token (16 digits), [5] epoch, [6] channel of those who wait
-- Returns 1 when stored. Tokens of two epochs have no order: the later store wins, and reads tell them apart.
local head = redis.call('GETRANGE', KEYS[1], 0, 33)
local stored = 1
if string.sub(head, 1, 2) == 'F1' and string.sub(head, 19, 34) == ARGV[5]
  and tonumber(string.sub(head, 3, 18)) > tonumber(ARGV[4]) then
  stored = 0
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local holder = redis.call('GET', KEYS[2])
if holder == ARGV[3] then redis.call('DEL', KEYS[2]) end
if holder == ARGV[3] .. '+' then
  redis.call('DEL', KEYS[2])
  redis.call('PUBLISH', ARGV[6], '')
end
return stored
