package target

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAddressesThatNoSiteHas(t *testing.T) {
	for _, tc := range []struct {
		addr          string
		open, private bool // allowed as it is, and with deny_private
	}{
		{"93.184.216.34", true, true}, {"2606:2800:220:1::1", true, true}, {"::ffff:93.184.216.34", true, true}, {"64:ff9b::93.184.216.34", true, true},
		{"127.0.0.1", true, false}, {"127.9.9.9", true, false}, {"::1", true, false}, {"10.0.0.1", true, false}, {"172.16.0.1", true, false}, {"192.168.1.1", true, false},
		{"100.64.0.1", true, false}, {"fd12::1", true, false}, {"::ffff:127.0.0.1", true, false}, {"::ffff:10.1.1.1", true, false}, {"64:ff9b::10.0.0.1", true, false}, {"::10.0.0.1", true, false}, {"fec0::1", true, false},
		{"169.254.169.254", false, false}, {"169.254.0.1", false, false}, {"::ffff:169.254.169.254", false, false}, {"64:ff9b::a9fe:a9fe", false, false}, {"::169.254.169.254", false, false},
		{"fe80::1", false, false}, {"fe80::1%eth0", false, false}, {"0.0.0.0", false, false}, {"0.1.2.3", false, false}, {"::", false, false}, {"224.0.0.1", false, false}, {"ff02::1", false, false},
		{"255.255.255.255", false, false}, {"100.100.100.200", false, false}, {"168.63.129.16", false, false}, {"fd00:ec2::254", false, false},
	} {
		ip := netip.MustParseAddr(tc.addr)
		if err := checkAddr(ip, false); (err == nil) != tc.open {
			t.Errorf("checkAddr(%s) = %v, want allowed = %v", tc.addr, err, tc.open)
		}
		if err := checkAddr(ip, true); (err == nil) != tc.private {
			t.Errorf("checkAddr(%s), deny_private = %v, want allowed = %v", tc.addr, err, tc.private)
		}
	}
}

// names is a resolver that answers the nth question with the nth address, the
// last one for ever: a name that changes its mind.
func names(t *testing.T, addrs ...string) *net.Resolver {
	var asked atomic.Int64
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer ours.Close()
			var size [2]byte // framed as over TCP
			if _, err := ours.Read(size[:]); err != nil {
				return
			}
			q := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := ours.Read(q); err != nil {
				return
			}
			end := 12
			for q[end] != 0 {
				end += int(q[end]) + 1
			}
			a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end+5]...)
			if qtype := binary.BigEndian.Uint16(q[end+1:]); qtype == 1 {
				n := min(int(asked.Add(1)), len(addrs))
				ip := netip.MustParseAddr(addrs[n-1]).As4()
				a[7] = 1
				a = append(append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), ip[:]...)
			}
			ours.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
		}()
		return theirs, nil
	}}
}

func TestNameThatChangesItsMindIsRefused(t *testing.T) {
	s := newSite(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	for _, tc := range []struct {
		later string
		deny  bool
	}{{"169.254.169.254", false}, {"0.0.0.0", false}, {"127.0.0.1", true}} {
		tg := newTarget(t, "http://site.test:"+port, func(c *Config) { c.DenyPrivate = tc.deny })
		tr := tg.client.Transport.(*http.Transport)
		tr.DisableKeepAlives = true
		dial := func(addrs ...string) {
			tr.DialContext = (&net.Dialer{Resolver: names(t, addrs...), ControlContext: allowed(tc.deny)}).DialContext
		}
		if !tc.deny {
			dial("127.0.0.1", tc.later)
			if err := tg.Tell(t.Context(), Notice{Tags: []string{"x"}}); err != nil {
				t.Fatalf("Tell before = %v", err)
			}
		} else {
			dial(tc.later)
		}
		before := len(s.seen())
		if err := tg.Tell(t.Context(), Notice{Tags: []string{"x"}}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the address "+tc.later+" is") {
			t.Errorf("Tell after the name led to %s = %v, want refused", tc.later, err)
		}
		if len(s.seen()) != before {
			t.Errorf("a call went to %s", tc.later)
		}
	}
}
