-- Deletes an entry that an event made void, and leaves a newer fill alone.
-- KEYS[1] entry   ARGV[1] seq of the event, [2] epoch of its ledger
-- Returns 0 nothing there, 1 deleted, 2 kept: filled after the event.
local head = redis.call('GETRANGE', KEYS[1], 0, 33)
if head == '' then return 0 end
local token = tonumber(string.sub(head, 3, 18))
if token and string.sub(head, 1, 2) == 'F1' and string.sub(head, 19) == ARGV[2] and token >= tonumber(ARGV[1]) then
  return 2
end
redis.call('UNLINK', KEYS[1])
return 1
