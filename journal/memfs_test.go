package journal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// memFS is a strict directory in memory. Nothing survives a crash for certain
// but what was synced: content by the file's Sync, names by SyncDir.
type memFS struct {
	mu      sync.Mutex
	names   map[string]*inode
	durable map[string]*inode
	pending []func(map[string]*inode) // changes of names since SyncDir, in order

	budget int   // steps until the crash, a byte written is one; negative: none
	room   int64 // bytes that fit on the disk; negative: all
	sync   func() error
	locked bool
}

type inode struct{ data, durable []byte }

var errCrashed = errors.New("memfs: crashed")

func newMemFS() *memFS {
	return &memFS{names: map[string]*inode{}, durable: map[string]*inode{}, budget: -1, room: -1}
}

// step takes up to n steps, and returns how many were left before the crash.
func (m *memFS) step(n int) (int, error) {
	if m.budget < 0 {
		return n, nil
	}
	got := min(n, m.budget)
	m.budget -= got
	if got < n {
		return got, errCrashed
	}
	return n, nil
}

func (m *memFS) change(fn func(map[string]*inode)) {
	fn(m.names)
	m.pending = append(m.pending, fn)
}

// used is what all files hold.
func (m *memFS) used() (sum int64) {
	for _, n := range m.names {
		sum += int64(len(n.data))
	}
	return sum
}

// fill leaves room for n more bytes; negative: for all.
func (m *memFS) fill(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.room = n
	if n >= 0 {
		m.room += m.used()
	}
}

// failSync makes every Sync return what fn does, and sync nothing then.
func (m *memFS) failSync(fn func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sync = fn
}

type crash int

const (
	keepsAll  crash = iota // of a process: the system still writes what it has
	losesAll               // of power: only what was synced is there
	keepsBits              // of power: and some of the rest, some zeros instead
)

// after returns the directory as it may be found after a crash now.
func (m *memFS) after(how crash, rng *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := newMemFS()
	names := maps.Clone(m.durable)
	switch how {
	case keepsAll:
		names = m.names
	case keepsBits:
		for _, fn := range m.pending[:rng.IntN(len(m.pending)+1)] {
			fn(names)
		}
	}
	copies := map[*inode]*inode{}
	for name, n := range names {
		if copies[n] == nil {
			data := slices.Clone(n.durable)
			switch how {
			case keepsAll:
				data = slices.Clone(n.data)
			case keepsBits:
				data = someOf(n, rng)
			}
			copies[n] = &inode{data: data, durable: slices.Clone(data)}
		}
		next.names[name], next.durable[name] = copies[n], copies[n]
	}
	return next
}

// someOf returns n's content after a power cut: of each small block what was
// synced or what was written, and a length of one of the two.
func someOf(n *inode, rng *rand.Rand) []byte {
	const block = 16
	data := make([]byte, []int{len(n.durable), len(n.data)}[rng.IntN(2)])
	copy(data, n.durable)
	for at := 0; at < len(data); at += block {
		if rng.IntN(2) == 0 && at < len(n.data) {
			copy(data[at:min(at+block, len(data))], n.data[at:])
		}
	}
	return data
}

func (m *memFS) Lock(string) (func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, ErrLocked
	}
	m.locked = true
	return func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.locked = false
		return nil
	}, nil
}

func (m *memFS) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.step(1)
	return slices.Collect(maps.Keys(m.names)), err
}

func (m *memFS) Create(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step(1); err != nil {
		return nil, err
	}
	if m.names[name] != nil {
		return nil, fs.ErrExist
	}
	n := &inode{}
	m.change(func(names map[string]*inode) { names[name] = n })
	return &memFile{m, n}, nil
}

func (m *memFS) Open(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step(1); err != nil {
		return nil, err
	}
	if m.names[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &memFile{m, m.names[name]}, nil
}

func (m *memFS) Rename(from, to string) error {
	return m.rename(from, func(names map[string]*inode, n *inode) { delete(names, from); names[to] = n })
}

func (m *memFS) Link(from, to string) error {
	return m.rename(from, func(names map[string]*inode, n *inode) { names[to] = n })
}

func (m *memFS) Remove(name string) error {
	return m.rename(name, func(names map[string]*inode, _ *inode) { delete(names, name) })
}

func (m *memFS) rename(name string, fn func(map[string]*inode, *inode)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step(1); err != nil {
		return err
	}
	n := m.names[name]
	if n == nil {
		return fs.ErrNotExist
	}
	m.change(func(names map[string]*inode) { fn(names, n) })
	return nil
}

func (m *memFS) SyncDir() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step(1); err != nil {
		return err
	}
	m.durable, m.pending = maps.Clone(m.names), nil
	return nil
}

type memFile struct {
	fs *memFS
	n  *inode
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.n.data)) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.fs.step(len(p))
	if grown := off + int64(n) - int64(len(f.n.data)); f.fs.room >= 0 && grown > 0 {
		if over := f.fs.used() + grown - f.fs.room; over > 0 {
			n, err = max(0, n-int(over)), syscall.ENOSPC
		}
	}
	if n > 0 {
		if end := int(off) + n; end > len(f.n.data) {
			f.n.data = append(f.n.data, make([]byte, end-len(f.n.data))...)
		}
		copy(f.n.data[off:], p[:n])
	}
	return n, err
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if _, err := f.fs.step(1); err != nil {
		return err
	}
	f.n.data = slices.Clone(f.n.data[:min(size, int64(len(f.n.data)))])
	return nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if _, err := f.fs.step(1); err != nil {
		return err
	}
	if f.fs.sync != nil {
		if err := f.fs.sync(); err != nil {
			return err
		}
	}
	f.n.durable = slices.Clone(f.n.data)
	return nil
}

func (f *memFile) Close() error { return nil }
