-- Declares scopes void: one seq for one event and all its scopes.
-- KEYS and ARGV[1..3] as clock.lua   ARGV[4] retain in µs, [5] bell, [6] member and [7] epoch of an earlier
-- invalidation for the same event ('' none), [8] who asks ('' nobody), [9] number of scopes, [10...] scopes, then
-- announcements
-- Returns {seq, member, epoch}: the earlier ones where the ledger still knows them.
if ARGV[6] ~= '' and ARGV[7] == epoch then
  local prior = redis.call('ZSCORE', KEYS[2], ARGV[6])
  if prior then return {prior, ARGV[6], epoch} end
end
local function add(key, from, to)
  for i = from, to, 500 do
    local args = {}
    for j = i, math.min(i + 499, to) do
      args[#args + 1] = s
      args[#args + 1] = ARGV[j]
    end
    redis.call('ZADD', key, 'GT', unpack(args))
  end
end
local last = 9 + tonumber(ARGV[9])
add(KEYS[1], 10, last)
add(KEYS[6], last + 1, #ARGV)
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', '(' .. string.format('%.0f', now - 600000000))
redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -50001)
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
if ARGV[8] ~= '' then member = member .. '.' .. ARGV[8] end
redis.call('ZADD', KEYS[2], s, member)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -10001)
redis.call('PUBLISH', ARGV[5], s)
return {s, member, epoch}
