package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// filesystem is one directory; names have no path. A test's own loses all that
// was not synced.
type filesystem interface {
	Lock(name string) (unlock func() error, err error) // ErrLocked when another holds it
	List() ([]string, error)
	Create(name string) (file, error) // must not be there
	Open(name string) (file, error)   // for reading and Truncate
	Rename(from, to string) error
	Link(from, to string) error
	Remove(name string) error
	SyncDir() error // makes all names durable
}

type file interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// diskFS is a directory of the operating system.
type diskFS string

func newDiskFS(dir string) (diskFS, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// The directory's own name must be as durable as what is put into it.
	if abs, err := filepath.Abs(dir); err == nil {
		_ = syncDir(filepath.Dir(abs)) // not ours, and often not allowed
	}
	return diskFS(dir), nil
}

func (d diskFS) path(name string) string { return filepath.Join(string(d), name) }

// Lock holds name until unlock; whoever dies gives it back. The file tells
// people whose it is.
func (d diskFS) Lock(name string) (unlock func() error, err error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, errHeld) {
			return nil, fmt.Errorf("locking %q: %w", string(d), err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		if by := strings.TrimSpace(string(pid)); by != "" {
			return nil, fmt.Errorf("%w: %q, by process %s", ErrLocked, string(d), by)
		}
		return nil, fmt.Errorf("%w: %q", ErrLocked, string(d))
	}
	// On a full disk the pid stays away; the lock holds all the same.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	return f.Close, nil
}

func (d diskFS) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (d diskFS) Create(name string) (file, error) {
	return wrap(os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600))
}

func (d diskFS) Open(name string) (file, error) {
	return wrap(os.OpenFile(d.path(name), os.O_RDWR, 0))
}

func (d diskFS) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d diskFS) Link(from, to string) error   { return os.Link(d.path(from), d.path(to)) }
func (d diskFS) Remove(name string) error     { return os.Remove(d.path(name)) }
func (d diskFS) SyncDir() error               { return syncDir(string(d)) }

type diskFile struct{ *os.File }

func wrap(f *os.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (f diskFile) Sync() error { return syncData(f.File) }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readFile reads a small file.
func readFile(fs filesystem, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, 1<<20))
	_, err = f.ReadAt(b, 0)
	return b, err
}

// replaceFile writes name anew: a reader finds the old content or the new.
// After a power cut it may find neither, unless durable.
func replaceFile(fs filesystem, name string, content []byte, durable bool) error {
	tmp := name + ".tmp"
	_ = fs.Remove(tmp) // of a crash
	f, err := fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(tmp, name)
	}
	if err != nil {
		_ = fs.Remove(tmp)
		return err
	}
	if durable {
		return fs.SyncDir()
	}
	return nil
}
