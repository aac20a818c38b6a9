package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

// filled returns a closed directory with n records in several segments.
func filled(t testing.TB, n int) *memFS {
	t.Helper()
	disk := newMemFS()
	j := mustOpen(t, disk, small())
	for _, r := range numbered("r", n) {
		mustAppend(t, j, r)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

func segmentNames(m *memFS) []string {
	names, _ := m.List()
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, ".seg") })
	slices.Sort(names)
	return names
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	disk := newMemFS()
	j := mustOpen(t, disk, small())
	at := time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC)
	want := []Record{
		{ID: "a", Data: []byte("one"), At: at},
		{ID: strings.Repeat("ü", 512), At: at, Again: true},
		{ID: "c", Data: make([]byte, 100_000), At: at},
	}
	seq := mustAppend(t, j, want...)
	j.Close()
	got := contents(t, mustOpen(t, disk, small()))
	if seq != 3 || len(got) != 3 {
		t.Fatalf("seq %d, %d records", seq, len(got))
	}
	for i, r := range got {
		w := want[i]
		if r.Seq != uint64(i+1) || r.ID != w.ID || string(r.Data) != string(w.Data) || !r.At.Equal(w.At) || r.Again != w.Again {
			t.Errorf("record %d came back as %d %.20q %v %v", i, r.Seq, r.ID, r.At, r.Again)
		}
	}
}

func TestFlippedByteCostsOneRecordAtMost(t *testing.T) {
	const n = 21
	whole := filled(t, n)
	names := segmentNames(whole)
	if len(names) < 4 {
		t.Fatalf("%d segments", len(names))
	}
	for s, name := range names {
		for at := range whole.names[name].data {
			disk := whole.after(keepsAll, nil)
			disk.names[name].data[at] ^= 0x41
			var log logs
			j, err := open(disk, log.logger(), small())
			if err != nil {
				t.Fatalf("%s, byte %d: Open: %v", name, at, err)
			}
			got := contents(t, j)
			if header := at < headerSize; len(got) < n-1 || header && len(got) < n {
				t.Fatalf("%s, byte %d: %d of %d records left", name, at, len(got), n)
			}
			// In the newest segment's last record it looks like a torn write.
			torn := s == len(names)-1 && len(got) < n
			if told := log.count("segment is damaged") == 1 && disk.names[name+".damaged"] != nil; !told && !torn {
				t.Fatalf("%s, byte %d: nobody was told", name, at)
			}
			if seq := mustAppend(t, j, rec("next")); seq <= got[len(got)-1].Seq {
				t.Fatalf("%s, byte %d: seq %d given again", name, at, seq)
			}
			j.Close()
		}
	}
}

func TestSegmentsInTheWrongOrderAreUsedOnce(t *testing.T) {
	disk := filled(t, 12)
	names := segmentNames(disk)
	disk.names[segmentName(1<<40)] = disk.names[names[0]] // a copy under a later name
	var log logs
	j, err := open(disk, log.logger(), small())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if got := ids(contents(t, j)); !slices.Equal(got, ids(numbered("r", 12))) {
		t.Errorf("records: %q", got)
	}
	if log.count("out_of_order=6") != 1 || disk.names[segmentName(1<<40)+".damaged"] == nil {
		t.Errorf("nobody was told:\n%s", log.all.String())
	}
}

func TestDiskThatCannotReadABlockCostsThatBlock(t *testing.T) {
	disk := newMemFS()
	j := mustOpen(t, disk, Config{})
	const n = 100
	for i := range n {
		mustAppend(t, j, Record{ID: fmt.Sprint(i), Data: make([]byte, 1000)})
	}
	j.Close()
	bad := badDisk{disk, 40_000}
	j = mustOpen(t, bad, Config{})
	if got := len(contents(t, j)); got < n-6 || got == n {
		t.Errorf("%d of %d records left, want all but those in one block", got, n)
	}
	if size := len(disk.names[segmentName(1)].data); size < n*1000 {
		t.Errorf("what could not be read was cut off: %d bytes left", size)
	}
}

// badDisk fails all reads of one byte.
type badDisk struct {
	*memFS
	at int64
}

func (d badDisk) Open(name string) (file, error) {
	f, err := d.memFS.Open(name)
	return badFile{f, d.at}, err
}

type badFile struct {
	file
	at int64
}

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.at && f.at < off+int64(len(p)) {
		return 0, errors.New("bad block")
	}
	return f.file.ReadAt(p, off)
}

func TestBlockThatGoesBadWhileItRunsCostsThatBlock(t *testing.T) {
	disk := newMemFS()
	j := mustOpen(t, disk, Config{})
	for i := range 100 {
		mustAppend(t, j, Record{ID: fmt.Sprint(i), Data: make([]byte, 1000)})
	}
	disk.mu.Lock()
	disk.names[segmentName(1)].data[50_000] ^= 1
	disk.mu.Unlock()
	s := &store{}
	stop := run(t, j, s.sink())
	if err := j.Wait(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	stop()
	if got := len(s.has()); got != 99 {
		t.Errorf("%d of 100 delivered, want all but the damaged one", got)
	}
}

func TestNewerFormatIsRefusedPolitely(t *testing.T) {
	disk := filled(t, 3)
	name := segmentNames(disk)[0]
	head := disk.names[name].data[:headerSize]
	binary.LittleEndian.PutUint32(head[8:], 2)
	binary.LittleEndian.PutUint32(head[28:], crc32.Checksum(head[:28], castagnoli))
	_, err := open(disk, quiet, small())
	if err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("Open = %v", err)
	}
	if _, err := open(disk, quiet, small()); errors.Is(err, ErrLocked) {
		t.Error("the refused directory stays locked")
	}
}

func TestStrangersCannotPutRecordsIntoDamagedFiles(t *testing.T) {
	// The body of a record holds a whole record, written with another salt;
	// then the outer one is damaged.
	disk := newMemFS()
	j := mustOpen(t, disk, Config{})
	forged := rec("forged")
	mustAppend(t, j, rec("a"), Record{ID: "b", Data: appendRecord(nil, j.writer.salt+1, 2, &forged)}, rec("c"))
	j.Close()
	data := disk.names[segmentName(1)].data
	data[headerSize+recordSize(&Record{ID: "a", Data: rec("a").Data})] ^= 1
	if got := ids(contents(t, mustOpen(t, disk, Config{}))); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("records: %q", got)
	}
}

func TestSearchOfADamagedFileIsLinear(t *testing.T) {
	// Heads with right sums, each claiming all that follows; or none at all.
	const size = 1 << 20
	claims := make([]byte, headerSize, size)
	for len(claims) < size-headSize {
		r := Record{ID: "x"}
		start := len(claims)
		claims = appendRecord(claims, 7, 1, &r)[:start+headSize]
		binary.LittleEndian.PutUint32(claims[start:], uint32(size-len(claims)))
		binary.LittleEndian.PutUint32(claims[start+4:], headSum(7, claims[start:]))
	}
	noise := make([]byte, size)
	for i := range noise {
		noise[i] = byte(rand.N(256)) & 3
	}
	for name, content := range map[string][]byte{"claims": claims, "noise": noise} {
		f := &countingFile{content: content}
		r := newReader(f, 7, int64(len(content)))
		if rec, ok := r.next(); ok {
			t.Errorf("%s: found %+v", name, rec)
		}
		if f.read > 6*size {
			t.Errorf("%s: read %d bytes of a file of %d", name, f.read, size)
		}
	}
}

type countingFile struct {
	content []byte
	read    int
}

func (f *countingFile) ReadAt(p []byte, off int64) (int, error) {
	f.read += len(p)
	return io.NewSectionReader(bytesAt(f.content), 0, int64(len(f.content))).ReadAt(p, off)
}

type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, b[off:]), nil }

func TestDirectoryBelongsToOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	j, err := Open(dir, testkit.Logger(t), Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, testkit.Logger(t), Config{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("second Open = %v, want ErrLocked and our pid", err)
	}
	mustAppend(t, j, rec("a"))
	for name, want := range map[string]os.FileMode{"": 0o700, "lock": 0o600, "node": 0o600, segmentName(1): 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %q = %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, err = Open(dir, testkit.Logger(t), Config{})
	if err != nil {
		t.Fatalf("Open after Close: %v", err)
	}
	defer j.Close()
	if got := ids(contents(t, j)); !slices.Equal(got, []string{"a"}) {
		t.Errorf("records: %q", got)
	}
}
