-- Invalidates again what a failover lost, under a new seq: under the old one, nodes that read past it would skip it.
-- KEYS and ARGV[1..3] as clock.lua   ARGV[4] bell, [5] epoch that the node knows, [6] number of scopes, [7...] scope, seq,
-- scope, seq, ..., then announcement, seq, ...
-- Returns {lost scopes, epoch, member}; nothing lost is no event. Of many nodes that ask, the first gives back.
-- Announcements are given back beside scopes only: alone they are not lost, but over.
local function lacking(key, from, to)
  local list = {}
  for i = from, to, 2 do
    local has, seq = redis.call('ZSCORE', key, ARGV[i]), tonumber(ARGV[i + 1])
    if seq > tonumber(f) and (not has or tonumber(has) < seq) then list[#list + 1] = ARGV[i] end
  end
  return list
end
local function add(key, list)
  for i = 1, #list, 500 do
    local args = {}
    for j = i, math.min(i + 499, #list) do
      args[#args + 1] = s
      args[#args + 1] = list[j]
    end
    redis.call('ZADD', key, 'GT', unpack(args))
  end
end
if ARGV[5] ~= epoch then return {0, epoch, ''} end
local last = 6 + 2 * tonumber(ARGV[6])
local lost = lacking(KEYS[1], 7, last)
if #lost == 0 then return {0, epoch, ''} end
add(KEYS[1], lost)
add(KEYS[6], lacking(KEYS[6], last + 1, #ARGV))
local member = s .. ':' .. ARGV[3]
redis.call('ZADD', KEYS[2], s, member)
redis.call('PUBLISH', ARGV[4], s)
return {#lost, epoch, member}
