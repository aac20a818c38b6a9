-- Gives the tasks of dead workers back to the queue, as the next to run.
-- KEYS[1] lease  [2] active  [3] pending   (Asynq's own keys)
-- ARGV[1] leases up to this unix second have run out  [2] task keys without the id
-- ARGV[3] how often this may happen to a task  [4] now, ns
-- ARGV[5…] ids that were active without a lease at the last call
-- A task that was given back too often is left to Asynq, which counts a retry:
-- it may be what kills its workers.
-- An id without a body (evicted, or lost) is nothing that could run.
-- Returns {given back, active without a lease, dropped for want of a body}.
local given, dropped = {}, {}

local function give(id)
  local key = ARGV[2] .. id
  redis.call('HINCRBY', key, 'fw_reaps', 1)
  redis.call('ZREM', KEYS[1], id)
  redis.call('LREM', KEYS[2], 0, id)
  redis.call('RPUSH', KEYS[3], id)
  redis.call('HSET', key, 'state', 'pending', 'pending_since', ARGV[4])
  table.insert(given, id)
end

local function spent(id)
  return tonumber(redis.call('HGET', ARGV[2] .. id, 'fw_reaps') or 0) >= tonumber(ARGV[3])
end

-- Returns whether the task runs, as far as Asynq knows. If not, nothing of it stays behind.
local function runs(id)
  local key = ARGV[2] .. id
  if redis.call('HEXISTS', key, 'msg') == 0 then
    redis.call('DEL', key)
    table.insert(dropped, id)
  elseif redis.call('HGET', key, 'state') == 'active' then
    return true
  end
  redis.call('ZREM', KEYS[1], id)
  redis.call('LREM', KEYS[2], 0, id)
  return false
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1000)) do
  if runs(id) and not spent(id) then
    give(id)
  end
end

for i = 5, #ARGV do
  local id = ARGV[i]
  if not redis.call('ZSCORE', KEYS[1], id) and redis.call('LPOS', KEYS[2], id) and runs(id) then
    if spent(id) then
      redis.call('ZADD', KEYS[1], ARGV[1], id)
    else
      give(id)
    end
  end
end

local bare = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  if not redis.call('ZSCORE', KEYS[1], id) then
    table.insert(bare, id)
  end
end
return {given, bare, dropped}
