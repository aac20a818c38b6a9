-- Counts the nodes that may still serve what an event made void.
-- KEYS[1] ack, [2] live, [3] seqs
-- ARGV[1] seq, [2] member, [3] highest server time in µs that the caller believes (0: none), [4] slack in µs
-- Returns {waiting, nodes}; waiting is -1 when the event is not in the ledger (any more), or the registry of leases
-- is not whole: invalidate again.
-- A node is forgotten when its lease ran out, but only for a caller that saw this server's clock run evenly:
-- a clock that jumped ahead makes running leases look over.
if not redis.call('ZSCORE', KEYS[3], ARGV[2]) or not redis.call('ZSCORE', KEYS[2], '#') then return {-1, 0} end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
if now <= tonumber(ARGV[3]) then
  local over = string.format('%.0f', now - tonumber(ARGV[4]))
  local gone = redis.call('ZRANGE', KEYS[2], '-inf', over, 'BYSCORE', 'LIMIT', 0, 100)
  if #gone > 0 then
    redis.call('ZREM', KEYS[2], unpack(gone))
    redis.call('ZREM', KEYS[1], unpack(gone))
  end
end
local waiting, nodes, seq = 0, 0, tonumber(ARGV[1])
for _, node in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if node == '?' then
    waiting = waiting + 1
  elseif node ~= '#' then
    nodes = nodes + 1
    local ack = redis.call('ZSCORE', KEYS[1], node)
    if not ack or tonumber(ack) < seq then waiting = waiting + 1 end
  end
end
return {waiting, nodes}
