package main

import (
	"net/http/httptest"
	"testing"
)

func TestOnlyTrustedProxiesNameTheClient(t *testing.T) {
	trusted := trustedProxies{"10.0.0.0/8", "fd00::/8"}
	for _, tc := range []struct{ peer, forwarded, want string }{
		{"192.0.2.1:9", "", "192.0.2.1"},
		{"192.0.2.1:9", "198.51.100.7", "192.0.2.1"},
		{"10.0.0.1:9", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:9", "203.0.113.9, 198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:9", "198.51.100.7, 10.0.0.2", "198.51.100.7"},
		{"10.0.0.1:9", "198.51.100.7, nonsense", "10.0.0.1"},
		{"10.0.0.1:9", "", "10.0.0.1"},
		{"[fd00::1]:9", "2001:db8::7", "2001:db8::7"},
		{"[::ffff:10.0.0.1]:9", "198.51.100.7", "198.51.100.7"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tc.peer
		r.Header.Set("X-Forwarded-For", tc.forwarded)
		if got := trusted.client(r); got != tc.want {
			t.Errorf("client of %s forwarded for %q = %s, want %s", tc.peer, tc.forwarded, got, tc.want)
		}
	}
}
