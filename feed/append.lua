-- Appends a record to the log once for each id, and publishes it for outsiders.
-- Where the id is known nothing changes, whatever the others are.
-- KEYS[1] log, [2] meta, [3] seen:<id>, [4…] seen:<id> of the other events that the record stands for
-- ARGV[1] nonce of a new life, [2] entries to keep, [3] seconds to remember the id,
--      [4] data, [5] channels, one a line, [6…] names to PUBLISH to
-- Returns {id of the entry, 1 added or 0 was there}.
life(KEYS[1], KEYS[2], ARGV[1], false, false, false)
local seen = redis.call('GET', KEYS[3])
if seen then return {seen, 0} end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'd', ARGV[4], 'c', ARGV[5])
redis.call('SET', KEYS[3], id, 'EX', ARGV[3])
for i = 4, #KEYS do redis.call('SET', KEYS[i], id, 'EX', ARGV[3], 'NX') end -- one that was appended before stays where it was
for i = 6, #ARGV do redis.pcall('PUBLISH', ARGV[i], ARGV[4]) end -- a courtesy: never fails the append
return {id, 1}
