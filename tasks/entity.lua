-- Recalls what is known of an entity, and learns what an event tells of it.
-- KEYS[1] entity: v rank of the newest version, s last slug, p last slug that was published,
--         r what events renamed: lines of "<event id> <slug before>", newest last
-- ARGV[1] event id  [2] rank of its version, '' when it has none
-- ARGV[3] its slug, '' when it does not tell  [4] its action
-- ARGV[5] 1 to learn, 0 only to look  [6] seconds to keep it  [7] renames to keep
-- Ranks of one kind (their first letter) are in order as text.
-- Returns {1 if a newer version is known, slug, slug before}. A repeated call
-- finds its own rename in r, so it returns the same slug before.
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

if ARGV[5] == '1' then
  if not superseded then
    if rank ~= '' then redis.call('HSET', KEYS[1], 'v', rank) end
    if told then redis.call('HSET', KEYS[1], 's', slug) end
    if told and action == 'publish' then redis.call('HSET', KEYS[1], 'p', slug) end
    if #renames > 0 then
      redis.call('HSET', KEYS[1], 'r', table.concat(renames, '\n', math.max(1, #renames - ARGV[7] + 1)))
    end
  end
  redis.call('EXPIRE', KEYS[1], ARGV[6])
end
return {superseded and 1 or 0, slug, before}
