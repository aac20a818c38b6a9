-- Admits a request of a client, or tells when one will be.
-- KEYS[1] "window current previous": number of a fixed window, what was admitted in it and in the one before.
--         It ends one window after the last admitted request.
-- ARGV[1] limit  [2] length of the window, ms
-- Returns {1 admitted or 0, how many remain, ms until one more is admitted or 0, unix ms when the whole limit is free}.
-- Go says the same in local.go; a test compares the two.
local limit, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local window, passed = math.floor(now / size), now % size

local at, cur, prev = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+) (%d+)$')
at, cur, prev = tonumber(at), tonumber(cur), tonumber(prev)
if at == window - 1 then
  cur, prev = 0, cur
elseif at ~= window then
  cur, prev = 0, 0
end

local free = math.floor((limit * size - prev * (size - passed)) / size) - cur
local admitted, life = 0, size
if free >= 1 then
  admitted, cur, free = 1, cur + 1, free - 1
  redis.call('SET', KEYS[1], window .. ' ' .. cur .. ' ' .. prev, 'PX', size - 1) -- gone when it is more
else
  life = redis.call('PTTL', KEYS[1]) + 1
end

local wait = 0
if free < 1 then
  if cur < limit then -- when enough of the window before has slid out
    wait = size - math.floor((limit - cur - 1) * size / prev) - passed
  else -- in the next window
    wait = 2 * size - math.floor((limit - 1) * size / cur) - passed
  end
  wait = math.min(wait, life)
end
return {admitted, math.max(free, 0), wait, now + life}
