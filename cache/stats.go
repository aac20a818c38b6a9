package cache

import "time"

// Stats are what one process holds now.
type Stats struct {
	MemoryEntries int
	MemoryBytes   uint64
	MemoryLimit   int64         // bytes, 0 where entries are not kept in memory
	Scopes        int           // tags, keys, paths and patterns that some event made void
	LedgerAge     time.Duration // since the ledger was last asked
	Token         uint64        // every event up to it is known here
	Epoch         string        // of the ledger; another one means that it was lost
}

// Stats tells what this process holds.
func (s *Store) Stats() Stats {
	at := s.mirror.position()
	out := Stats{Scopes: s.mirror.size(), LedgerAge: s.mirror.age(), Token: at.token, Epoch: at.epoch}
	if m := s.memory; m != nil {
		out.MemoryEntries, out.MemoryBytes, out.MemoryLimit = m.entries.EstimatedSize(), m.entries.WeightedSize(), s.cfg.Memory
	}
	return out
}
