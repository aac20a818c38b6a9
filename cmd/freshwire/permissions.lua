-- Asks what the user of this connection may do, and does none of it.
-- ARGV: commands, each with its words joined by 0x1f
-- Returns the places in ARGV of those that it may not run.
local denied = {}
for i, command in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(command, '[^\31]+') do
    words[#words + 1] = word
  end
  if not redis.acl_check_cmd(unpack(words)) then
    denied[#denied + 1] = i
  end
end
return denied
