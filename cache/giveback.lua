-- Invalidates again what a failover lost, under a new seq: under the old one, nodes that read past it would skip it.
-- KEYS and ARGV[1..3] as clock.lua   ARGV[4] bell, [5] epoch that the node knows, [6...] scope, seq, scope, seq, ...
-- Returns {lost scopes, epoch, member}; nothing lost is no event. Of many nodes that ask, the first gives back.
local lost = {}
if ARGV[5] == epoch then
  for i = 6, #ARGV, 2 do
    local has, seq = redis.call('ZSCORE', KEYS[1], ARGV[i]), tonumber(ARGV[i + 1])
    if seq > tonumber(f) and (not has or tonumber(has) < seq) then lost[#lost + 1] = ARGV[i] end
  end
end
if #lost == 0 then return {0, epoch, ''} end
local i = 1
while i <= #lost do
  local args = {}
  for j = i, math.min(i + 499, #lost) do
    args[#args + 1] = s
    args[#args + 1] = lost[j]
  end
  redis.call('ZADD', KEYS[1], 'GT', unpack(args))
  i = i + 500
end
local member = s .. ':' .. ARGV[3]
redis.call('ZADD', KEYS[2], s, member)
redis.call('PUBLISH', ARGV[4], s)
return {#lost, epoch, member}
