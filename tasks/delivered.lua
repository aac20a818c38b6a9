-- Adds to records how many more streams were told of their events.
-- KEYS[1…] records   ARGV[1…] how many, in the same order
-- A record that is gone stays gone. Returns how many were there.
local found = 0
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then
    redis.call('HINCRBY', key, 'delivered', ARGV[i])
    found = found + 1
  end
end
return found
