-- Declares scopes void: one seq for one event and all its scopes.
-- KEYS and ARGV[1..3] as clock.lua   ARGV[4] retain in µs, [5] bell, [6] member and [7] epoch of an earlier
-- invalidation for the same event ('' none), [8...] scopes
-- Returns {seq, member, epoch}: the earlier ones where the ledger still knows them.
if ARGV[6] ~= '' and ARGV[7] == epoch then
  local prior = redis.call('ZSCORE', KEYS[2], ARGV[6])
  if prior then return {prior, ARGV[6], epoch} end
end
local i = 8
while i <= #ARGV do
  local args = {}
  for j = i, math.min(i + 499, #ARGV) do
    args[#args + 1] = s
    args[#args + 1] = ARGV[j]
  end
  redis.call('ZADD', KEYS[1], 'GT', unpack(args))
  i = i + 500
end
-- What is forgotten lies below the floor, and the floor voids what is older than itself: safe whatever the clock does.
local cut = string.format('%.0f', now - tonumber(ARGV[4]))
local over = redis.call('ZCARD', KEYS[1]) - 199999 -- at most 200,000, the floor among them
if over > 0 then
  local at = redis.call('ZRANGE', KEYS[1], over, over, 'WITHSCORES')[2]
  if tonumber(at) > tonumber(cut) then cut = at end
end
redis.call('ZADD', KEYS[1], 'GT', cut, '*')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. cut)
local member = s .. ':' .. ARGV[3]
redis.call('ZADD', KEYS[2], s, member)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -10001)
redis.call('PUBLISH', ARGV[5], s)
return {s, member, epoch}
