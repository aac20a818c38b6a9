-- Recalls what is known of an entity, and learns what an event tells of it.
-- KEYS[1] entity in its locale: v rank of the newest version, a when its newest event was received (µs),
--         s last slug, p last slug that was published,
--         r what events renamed: lines of "<event id> <slug before>", newest last
-- KEYS[2] id in all types and locales: t last type that was told, n last type that was made of an event's name,
--         l:<type> lines of "<locale>\t<last slug>\t<last slug that was published>", newest last;
--         a line "+" before them says that there were too many; g:<type> its tags, see tags.lua
-- KEYS[3] what this event recalled before: a line of "<1 if it means everything>\t<type>", then lines as in l
-- KEYS[4] tags that this event recalled before, see tags.lua
-- ARGV[1] event id  [2] rank of its version, '' when it has none
-- ARGV[3] its slug, '' when it does not tell  [4] its action
-- ARGV[5] 1 to learn, 0 only to look  [6] seconds to keep it  [7] renames to keep
-- ARGV[8] its type  [9] 1 if the CMS told that, 0 if it is made of the event's name
-- ARGV[10] its locale, '' for all of them  [11] 1 if it takes content away
-- ARGV[12] 1 if it means everything unless a type is remembered, or events before it told none either
-- ARGV[13] locales to keep  [14] seconds to keep KEYS[3]  [15] when it was received, µs
-- Ranks of one kind (their first letter) are in order as text.
-- Returns {1 if a newer version is known, slug, slug before, remembered type,
-- 1 if it means everything, 1 if pages were forgotten, pages: lines as in l,
-- tags: lines as in g, of its locale and of none, those of KEYS[4]}.
-- A repeated call finds its own rename in r and the rest in KEYS[3], so it
-- returns the same, and more if others have told more.
local known = redis.call('HMGET', KEYS[1], 'v', 's', 'p', 'r')
local rank, slug, action = ARGV[2], ARGV[3], ARGV[4]
local newest, last, public = known[1] or '', known[2] or '', known[3] or ''
local superseded = newest ~= '' and string.sub(rank, 1, 1) == string.sub(newest, 1, 1) and rank < newest

local before = ''
local renames = {}
for line in string.gmatch(known[4] or '', '[^\n]+') do
  table.insert(renames, line)
  if string.sub(line, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then before = string.sub(line, #ARGV[1] + 2) end
end
local told = slug ~= ''
if not told then slug = last end
if before == '' and not superseded then
  if last ~= slug then
    before = last
  elseif public ~= slug and action ~= 'create' and action ~= 'update' then
    before = public -- a draft was renamed before: its page is still the old one
  end
  if before ~= '' then table.insert(renames, ARGV[1] .. ' ' .. before) end
end

local type, locale, away = ARGV[8], ARGV[10], ARGV[11] == '1'
local id = redis.call('HMGET', KEYS[2], 't', 'n', 'l:' .. type)
local remembered, lines = id[1], id[3] or ''
local everything, as, forgotten = false, '', false
local pages, have = {}, {}
local function add(list)
  for line in string.gmatch(list, '[^\n]+') do
    if line == '+' then
      forgotten = forgotten or locale == ''
    elseif not have[line] and (locale == '' or string.sub(line, 1, #locale + 1) == locale .. '\t') then
      have[line] = true
      table.insert(pages, line)
    end
  end
end
local earlier = redis.call('GET', KEYS[3])
if earlier then
  local head, rest = string.match(earlier, '^([^\n]*)\n?(.*)$')
  everything, as = string.sub(head, 1, 1) == '1', string.sub(head, 3)
  add(rest)
end
if ARGV[12] == '1' then
  if not remembered and id[2] ~= type then everything = true end
  if as == '' and remembered and remembered ~= type then as = remembered end
end
if not told or away and locale == '' then
  add(lines)
  if as ~= '' then add(redis.call('HGET', KEYS[2], 'l:' .. as) or '') end
end
if everything or as ~= '' or forgotten or #pages > 0 then
  redis.call('SET', KEYS[3], (everything and '1' or '0') .. '\t' .. as .. (forgotten and '\n+' or '') .. '\n' .. table.concat(pages, '\n'), 'EX', ARGV[14])
end

local tags = {}
for line in string.gmatch((redis.call('HGET', KEYS[2], 'g:' .. type) or '') .. '\n' .. (as ~= '' and redis.call('HGET', KEYS[2], 'g:' .. as) or ''), '[^\n]+') do
  local of = string.match(line, '^[^\t]*')
  if locale == '' or of == '' or of == locale then table.insert(tags, line) end
end

if ARGV[5] == '1' then
  if not superseded then
    if rank ~= '' then redis.call('HSET', KEYS[1], 'v', rank) end
    if tonumber(ARGV[15]) > tonumber(redis.call('HGET', KEYS[1], 'a') or '-1') then redis.call('HSET', KEYS[1], 'a', ARGV[15]) end
    if told then redis.call('HSET', KEYS[1], 's', slug) end
    if told and action == 'publish' then redis.call('HSET', KEYS[1], 'p', slug) end
    if #renames > 0 then
      redis.call('HSET', KEYS[1], 'r', table.concat(renames, '\n', math.max(1, #renames - ARGV[7] + 1)))
    end
    if ARGV[9] == '1' then
      redis.call('HSET', KEYS[2], 't', type)
    elseif ARGV[12] == '0' then
      redis.call('HSET', KEYS[2], 'n', type)
    end
    if told then
      local list, more, live = {}, false, ''
      for line in string.gmatch(lines, '[^\n]+') do
        if line == '+' then
          more = true
        elseif string.sub(line, 1, #locale + 1) == locale .. '\t' then
          live = string.match(line, '\t[^\t]*\t(.*)$')
        else
          table.insert(list, line)
        end
      end
      if action == 'publish' then live = slug end
      table.insert(list, locale .. '\t' .. slug .. '\t' .. live)
      if #list > tonumber(ARGV[13]) then
        more = true
        table.remove(list, 1)
      end
      redis.call('HSET', KEYS[2], 'l:' .. type, (more and '+\n' or '') .. table.concat(list, '\n'))
    end
  end
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  redis.call('EXPIRE', KEYS[2], ARGV[6])
end
return {superseded and 1 or 0, slug, before, as, everything and 1 or 0, forgotten and 1 or 0, table.concat(pages, '\n'), table.concat(tags, '\n'), redis.call('GET', KEYS[4]) or ''}
