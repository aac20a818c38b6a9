-- life(log, meta, nonce, epoch, known, raise): makes sure that the log belongs
-- to this life of the store. Shared by append.lua and open.lua.
--
-- A new life begins when the log is empty or without its meta, when another
-- Redis process serves it (restart, failover: a suffix may be lost), or when a
-- tail that has read up to `known` in the life `epoch` finds the log before it.
-- It begins with a marker entry (field e = the new epoch) that every tail
-- reads in its place, so positions before it are known to be of another life.
-- The marker stands 10 s ahead of the clock, or at `raise`: ids of the former
-- life are before it even if the clock was put back a little.
--
-- meta is a hash: epoch, host (run_id of the process), origin (id of the marker).
-- epoch, known and raise may be false.
-- Returns epoch, origin.
local function ordered(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return string.format('%20s%20s', ms, n) -- ids go up to 2^64, doubles do not
end

local function life(log, meta, nonce, epoch, known, raise)
  local info = redis.pcall('INFO', 'server') -- the embedded store has none
  local host = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
  local m = redis.call('HMGET', meta, 'epoch', 'host', 'origin')
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local whole = newest and m[1] and m[3] and m[2] == host
  if whole and known then
    local from = m[1] == epoch and newest[1] or m[3]
    whole = ordered(from) >= ordered(known)
  end
  if whole then return m[1], m[3] end

  local t = redis.call('TIME')
  local id = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + 10000) .. '-0'
  if raise and ordered(id) < ordered(raise) then id = raise end
  if newest and ordered(id) <= ordered(newest[1]) then id = '*' end
  local origin = redis.call('XADD', log, id, 'e', nonce)
  redis.call('HSET', meta, 'epoch', nonce, 'host', host, 'origin', origin)
  return nonce, origin
end
