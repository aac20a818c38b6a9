-- Writes what an attempt has to say, unless a later attempt has begun or the
-- record is gone.
-- KEYS[1] record   ARGV[1] number of the attempt, then field, value, …
-- An empty value removes the field. Returns 1 if it wrote.
if redis.call('HGET', KEYS[1], 'attempts') ~= ARGV[1] then
  return 0
end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
