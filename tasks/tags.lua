-- Keeps the tags that an event gave its entity, for the next event: it purges
-- those too, since lists that the entity has left still show it.
-- KEYS[1] id in all types and locales: g:<type> lines of "<locale>\t<tags>\t<tags when it was published last>", newest
--         last. Tags are a JSON list; the second is '=' when equal to the first, and empty when nobody told of it.
-- KEYS[2] entity in its locale: a when its newest event was received
-- KEYS[3] what this event recalled, for its later attempts: a JSON list
-- ARGV[1] type  [2] locale  [3] when the event was received, µs  [4] its tags, '' when it is not believed
-- ARGV[5] 1 if it publishes  [6] what it recalled, '' for nothing  [7] locales to keep
-- ARGV[8] seconds to keep KEYS[1]  [9] seconds to keep KEYS[3]
-- An event that runs again, or late, does not overwrite what a newer one told.
-- Returns 1 when the tags of another locale were dropped to make room.
if ARGV[6] ~= '' then
  redis.call('SET', KEYS[3], ARGV[6], 'EX', ARGV[9])
end
if ARGV[4] == '' or tonumber(redis.call('HGET', KEYS[2], 'a') or '0') > tonumber(ARGV[3]) then
  return 0
end

local list, public, dropped = {}, '', 0
for line in string.gmatch(redis.call('HGET', KEYS[1], 'g:' .. ARGV[1]) or '', '[^\n]+') do
  local locale, last, before = string.match(line, '^([^\t]*)\t([^\t]*)\t(.*)$')
  if locale ~= ARGV[2] then
    table.insert(list, line)
  elseif before == '=' then
    public = last
  else
    public = before
  end
end
if ARGV[5] == '1' or public == ARGV[4] then public = '=' end
table.insert(list, ARGV[2] .. '\t' .. ARGV[4] .. '\t' .. public)
if #list > tonumber(ARGV[7]) then
  dropped = 1
  table.remove(list, 1)
end
redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], table.concat(list, '\n'))
redis.call('EXPIRE', KEYS[1], ARGV[8])
return dropped
