package target

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
)

// never are addresses that no site has, beside those that netip knows by name.
// Each is where some cloud answers with credentials, or nobody at all.
var never = prefixes(
	"0.0.0.0/8", "240.0.0.0/4", // this network, reserved and broadcast
	"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", // Alibaba, Azure, Oracle
	"fd00:ec2::254/128", "fd20:ce::254/128", // AWS, Google
)

// private are addresses inside somebody's network, beside loopback, RFC 1918 and ULA.
var private = prefixes("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "fec0::/10")

// translated are IPv6 addresses that stand for the IPv4 address at their end.
var translated = prefixes("64:ff9b::/96", "64:ff9b:1::/96", "::/96")

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func in(ip netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// checkAddr refuses what no site's address can be, and private ones if asked to.
func checkAddr(ip netip.Addr, denyPrivate bool) error {
	ip = ip.Unmap().WithZone("")
	if ip.Is6() && ip != netip.IPv6Unspecified() && ip != netip.IPv6Loopback() && in(ip, translated) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast(), in(ip, never):
		return fmt.Errorf("the address %v is link-local, multicast or reserved, and no site's", ip)
	case denyPrivate && (ip.IsLoopback() || ip.IsPrivate() || in(ip, private)):
		return fmt.Errorf("the address %v is private, and deny_private is set", ip)
	}
	return nil
}

// allowed checks the address of every connection, after its name was resolved.
func allowed(denyPrivate bool) func(ctx context.Context, network, address string, c syscall.RawConn) error {
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: not an address", ErrRefused)
		}
		if err := checkAddr(ap.Addr(), denyPrivate); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil
	}
}
