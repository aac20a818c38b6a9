package main

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// trustedProxies are CIDRs of proxies that tell the truth about who called them.
type trustedProxies []string

// client returns the address of who sent r: the peer or, where that is a
// trusted proxy, the last address in X-Forwarded-For that is none. What stands
// before it, anybody could have written.
func (t trustedProxies) client(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if len(t) == 0 {
		return host
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		if !t.trusts(host) || hop == "" {
			break
		}
		if _, err := netip.ParseAddr(hop); err != nil {
			break
		}
		host = hop
	}
	return host
}

func (t trustedProxies) trusts(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(t, func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Contains(ip.Unmap())
	})
}
