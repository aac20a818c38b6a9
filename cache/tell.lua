-- Notes what somebody is about to be told of. A later event's word stays.
-- KEYS one a tag   ARGV[1] seq, [2] life in ms, [3...] announcements, one a key
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  if not held or tonumber(string.match(held, '^%d+') or '0') <= tonumber(ARGV[1]) then
    redis.call('SET', key, ARGV[1] .. ':' .. ARGV[i + 2], 'PX', ARGV[2])
  end
end
return 1
