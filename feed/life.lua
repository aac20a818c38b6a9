-- life(log, meta, nonce, known, raise): makes sure that the log belongs
-- to this life of the store. Shared by append.lua and open.lua.
--
-- A new life begins when the log is empty or without its meta, when another
-- Redis process serves it (restart, failover: a suffix may be lost), or when
-- its newest entry is before `known`, which the caller has already read.
-- It begins with a marker entry (field e = the new epoch) that every tail
-- reads in its place, so positions before it are known to be of another life.
--
-- meta is a hash: epoch, host (run_id of the process), origin (id of the marker).
-- known may be false; raise is the id to use when the clock is not past known.
-- Returns epoch, origin.
local function ordered(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return string.format('%20s%20s', ms, n) -- ids go up to 2^64, doubles do not
end

local function life(log, meta, nonce, known, raise)
  local info = redis.pcall('INFO', 'server') -- the embedded store has none
  local host = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
  local m = redis.call('HMGET', meta, 'epoch', 'host', 'origin')
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local behind = known and newest and ordered(newest[1]) < ordered(known)
  if newest and m[1] and m[3] and m[2] == host and not behind then return m[1], m[3] end

  local id = '*'
  if known and (behind or not newest) then
    local t = redis.call('TIME')
    local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)) .. '-0'
    if ordered(now) < ordered(raise) then id = raise end
  end
  local origin = redis.call('XADD', log, id, 'e', nonce)
  redis.call('HSET', meta, 'epoch', nonce, 'host', host, 'origin', origin)
  return nonce, origin
end
