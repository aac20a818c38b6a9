-- Reads a session, and lets it live on when more than a tenth of its life is over.
-- KEYS[1] session
-- ARGV[1] its life without a visit, in ms
-- Returns the JSON of its user, nil when there is none or it ended.
local user = redis.call('GET', KEYS[1])
if not user or user == '' then return false end
local life, left = tonumber(ARGV[1]), redis.call('PTTL', KEYS[1])
if left < life * 0.9 or left > life then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return user
