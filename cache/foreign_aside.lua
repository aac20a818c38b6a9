-- Moves a set aside, so that members added from now on stay in a new set of
-- the old name. What an unfinished run left aside is kept, and comes first.
-- KEYS[1] set, [2] its name aside, in the same slot
-- Returns 2 when an unfinished run's set is aside, 1 when KEYS[1] now is, 0 when
-- there is nothing, -1 when KEYS[1] is no set.
if redis.call('EXISTS', KEYS[2]) == 1 then return 2 end
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind == 'none' then return 0 end
if kind ~= 'set' then return -1 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PERSIST', KEYS[2]) -- it must not expire half done
return 1
