package cache

import (
	"sync"
	"time"
)

// slack is how far a server's clock and ours may run apart over one lease
// before the server's deadlines are not believed.
const slack = 50 * time.Millisecond

// pace knows whether the server's clock ran as evenly as our own. Deadlines of
// leases are times of the server's clock, and one step of it ahead (NTP, a
// resumed machine, another master) would end all leases too early.
type pace struct {
	mu      sync.Mutex
	samples []sample // oldest first, at least one older than a lease where there was one
}

// sample bounds the difference between the server's clock and our monotonic one.
type sample struct {
	at       time.Duration // when the answer came
	min, max int64         // µs
}

// note takes a server time that was read between t0 and t1.
func (p *pace) note(t0, t1 time.Duration, server uint64, lease time.Duration) {
	s := sample{at: t1, min: int64(server) - t1.Microseconds(), max: int64(server) - t0.Microseconds()}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range p.samples {
		if s.min > old.max+slack.Microseconds() || s.max < old.min-slack.Microseconds() {
			p.samples = p.samples[:0] // it stepped: begin again
			break
		}
	}
	// Twenty samples a lease are plenty, and the bell may ring often.
	if n := len(p.samples); n > 1 && s.at-p.samples[n-1].at < lease/20 {
		return
	}
	p.samples = append(p.samples, s)
	for len(p.samples) > 1 && p.samples[1].at <= t1-lease {
		p.samples = p.samples[1:]
	}
}

// believable returns the highest time that the server's clock can show at t if
// it ran evenly for one lease, 0 where we did not watch it that long.
func (p *pace) believable(t, lease time.Duration) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) == 0 || p.samples[0].at > t-lease {
		return 0
	}
	best := p.samples[0]
	for _, s := range p.samples {
		if s.max < best.max {
			best = s
		}
	}
	if best.max-best.min > slack.Microseconds() {
		return 0
	}
	return uint64(best.max + t.Microseconds() + slack.Microseconds())
}

// server returns about what the server's clock shows at t, 0 before the first sample.
func (p *pace) server(t time.Duration) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) == 0 {
		return 0
	}
	return uint64(p.samples[len(p.samples)-1].max + t.Microseconds())
}
