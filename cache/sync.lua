-- Tells a node what it does not know yet, renews its lease, and takes the token that it came with as the
-- acknowledgement of everything up to it.
-- KEYS and ARGV[1..3] as clock.lua   ARGV[4] node, [5] lease in µs, [6] newest event member and [7] epoch that the node knows
-- Returns {token, floor, whole, epoch, newest member, now, cold, kept, {scope, seq, ...}, {announcement, seq, ...}}. whole is '0' where the
-- ledger lacks one of these events: a failover lost a suffix, and the node must give it back, from the event that is
-- kept before it. A node without a running lease may not trust its mirror before cold (µs, '0' none).
local whole, kept = '1', s
local low = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
for i = 7, #ARGV do
  local seq = tonumber(string.match(ARGV[i], '^%d+') or '')
  if seq and ARGV[6] == epoch and not redis.call('ZSCORE', KEYS[2], ARGV[i]) and (not low or seq > tonumber(low)) then
    -- Not the newest that is left: what the heir was told since comes after the loss.
    local before = redis.call('ZRANGE', KEYS[2], '(' .. string.format('%.0f', seq), '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2] or '0'
    if tonumber(before) < tonumber(kept) then kept = before end
    whole = '0'
  end
end
local from = ARGV[6] == epoch and ARGV[1] or '0'
redis.call('ZADD', KEYS[3], from, ARGV[4])
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[5])), ARGV[4])
-- No LIMIT: the scopes of one event share a seq, and a page could cut between them.
local out = redis.call('ZRANGE', KEYS[1], '(' .. from, '+inf', 'BYSCORE', 'WITHSCORES')
local want = redis.call('ZRANGE', KEYS[6], '(' .. from, '+inf', 'BYSCORE', 'WITHSCORES')
redis.call('ZADD', KEYS[1], s, '@') -- every later seq is above this token
local newest = redis.call('ZRANGE', KEYS[2], -1, -1)[1] or ''
local cold = redis.call('HGET', KEYS[5], 'until') or '0'
return {s, f, whole, epoch, newest, string.format('%.0f', now), cold, kept, out, want}
