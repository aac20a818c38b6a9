-- The head of invalidate.lua, sync.lua and giveback.lua, which share one clock.
-- KEYS[1] ledger, [2] seqs, [3] ack, [4] live, [5] meta, [6] want
-- ARGV[1] token of the caller, [2] longest lease in µs (0: no lease can outlive this server), [3] 16 random hex digits
-- Sets now, s (a seq above every seq and token ever handed out), f (the floor), epoch.
--
-- lost:  the ledger is gone, or a server was started with one that nobody touched for ten minutes: an old snapshot, and
--        no node may be left that knows what it lacks. A new epoch begins, and with it every entry is void.
-- moved: another server process, or a registry of leases that was not kept whole ('#' proves that it was).
--        Some node may hold a lease that nobody here knows: '?' stands for it and never acknowledges. Seqs jump
--        ahead, above tokens that the former server handed out and did not replicate.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local info = redis.pcall('INFO', 'server')
local host = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
local meta = redis.call('HMGET', KEYS[5], 'epoch', 'host')
local f, epoch = redis.call('ZSCORE', KEYS[1], '*'), meta[1]
local top = tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')[2] or 0)
local lost = not f or not epoch or meta[2] ~= host and top < now - 600000000
local moved = lost or meta[2] ~= host or not redis.call('ZSCORE', KEYS[4], '#')
local base = math.max(top, tonumber(ARGV[1])) + 1
if moved then base = base + 60000000 end
local s = string.format('%.0f', math.max(now, base))
if lost then
  epoch, f = ARGV[3], s
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[5], KEYS[6])
  redis.call('ZADD', KEYS[1], s, '*')
end
if moved then
  redis.call('HSET', KEYS[5], 'epoch', epoch, 'host', host)
  redis.call('ZADD', KEYS[1], s, '@')
  redis.call('DEL', KEYS[3]) -- acknowledged to another server: each node says it again
  redis.call('ZADD', KEYS[4], '+inf', '#')
  if ARGV[2] ~= '0' then
    local deadline = string.format('%.0f', now + tonumber(ARGV[2]))
    redis.call('ZADD', KEYS[4], deadline, '?')
    -- Entries of a lost ledger are void anyway; those of a kept one may lack an event that is yet to be given back.
    if not lost then redis.call('HSET', KEYS[5], 'until', deadline) end
  end
end
