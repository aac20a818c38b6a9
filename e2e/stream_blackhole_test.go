package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freshwire/freshwire/internal/testkit"
)

// Clients vanish without a word, as a phone in a tunnel does: no FIN, no
// answer to anything. All that they held is free again within 30 s, whether
// something is told to them meanwhile or not.
func TestStreamsOfVanishedClientsAreFreed(t *testing.T) {
	t.Parallel() // most of it is waiting
	const freedWithin = 30 * time.Second
	far := newNamespace(t)
	l := newLab(t, 0, nil)
	type trial struct {
		name    string
		node    *process
		channel int
		fds     int
		freed   time.Duration
	}
	const each = 40
	var trials []*trial
	for _, mode := range modes {
		for _, traffic := range []string{"quiet", "busy"} {
			_, port, _ := net.SplitHostPort(testkit.FreeAddr(t))
			node := startStreamAt(t, net.JoinHostPort(far.host, port), l.redis.URL(), "FRESHWIRE_SSE_MODE="+mode, "FRESHWIRE_ADMIN_TOKEN="+adminToken)
			trials = append(trials, &trial{name: mode + " " + traffic, node: node, channel: map[string]int{"quiet": 1, "busy": 0}[traffic]})
		}
	}
	for _, tr := range trials {
		tr.fds = tr.node.fds(t)
		for range each {
			w, err := openWire(t.Context(), far.dial, tr.node.addr(), "channel="+channelName(tr.channel), "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.Close() })
			if _, _, err := w.until(func(e told) bool { return e.name == "ready" }); err != nil {
				t.Fatal(err)
			}
		}
		if n := tr.node.subscribers(t); n != each {
			t.Fatalf("%d subscribers of %s, want %d", n, tr.name, each)
		}
	}

	far.vanish(t)
	cut := time.Now()
	l.publishing(t, 200*time.Millisecond, 1, "")
	var wait sync.WaitGroup
	for _, tr := range trials {
		wait.Go(func() {
			for tr.node.subscribers(t) > 0 || tr.node.fds(t) > tr.fds+few {
				if time.Since(cut) > 2*time.Minute {
					t.Errorf("%s: %d subscribers and %d descriptors more than before are left", tr.name, tr.node.subscribers(t), tr.node.fds(t)-tr.fds)
					return
				}
				rest(t.Context(), 100*time.Millisecond)
			}
			tr.freed = time.Since(cut)
		})
	}
	wait.Wait()
	for _, tr := range trials {
		t.Logf("blackhole, %s: %d streams and their descriptors freed %v after the cut", tr.name, each, tr.freed.Round(100*time.Millisecond))
		if tr.freed > freedWithin {
			t.Errorf("%s: freed after %v, want %v at most", tr.name, tr.freed.Round(100*time.Millisecond), freedWithin)
		}
	}
}

// namespace is another machine, as far as the network is concerned, and the
// line to it.
type namespace struct {
	name       string
	host, peer string // addresses of this end and that
	peerLink   string
}

// newNamespace makes a network namespace with a line to it, or skips the test
// where that is not possible.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: another network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("skipped: no ip (iproute2) to make a network namespace")
	}
	id := rand.IntN(1 << 14)
	n := &namespace{name: fmt.Sprintf("freshwire-%d", id), peerLink: fmt.Sprintf("fwp%d", id),
		host: fmt.Sprintf("10.251.%d.%d", id>>6, id&63<<2+1), peer: fmt.Sprintf("10.251.%d.%d", id>>6, id&63<<2+2)}
	hostLink := fmt.Sprintf("fwh%d", id)
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Skipf("skipped: no network namespaces here: %s", out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", n.name).Run() })
	ip(t, "link", "add", hostLink, "type", "veth", "peer", "name", n.peerLink, "netns", n.name)
	t.Cleanup(func() { exec.Command("ip", "link", "del", hostLink).Run() })
	ip(t, "addr", "add", n.host+"/30", "dev", hostLink)
	ip(t, "link", "set", hostLink, "up")
	ip(t, "-n", n.name, "addr", "add", n.peer+"/30", "dev", n.peerLink)
	ip(t, "-n", n.name, "link", "set", n.peerLink, "up")
	// What is sent there goes on being sent: a router far away does not say that a phone is gone.
	mac := strings.Fields(ip(t, "-n", n.name, "-brief", "link", "show", n.peerLink))[2]
	ip(t, "neigh", "replace", n.peer, "lladdr", mac, "dev", hostLink, "nud", "permanent")
	return n
}

// vanish makes the other end deaf and mute.
func (n *namespace) vanish(t testing.TB) { ip(t, "-n", n.name, "addr", "flush", "dev", n.peerLink) }

func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// dial connects from within the namespace. The thread goes there and comes
// back: were it to end, the servers that it started would end with it.
func (n *namespace) dial(ctx context.Context, addr string) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	there, err := os.Open("/run/netns/" + n.name)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, err := dialTCP(ctx, addr)
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err) // whatever this thread did next would be of another machine
	}
	return conn, err
}
