package handler

import (
	"hash/maphash"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// clientSeed makes a client's hash say nothing to anybody else.
var clientSeed = maphash.MakeSeed()

// clientOf returns what a queue tells clients apart by, see
// [delivery.Entry.Client]: the address, or its network of IPv6, all of which
// one client has.
func clientOf(r *http.Request) uint64 {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(ip)
	if err != nil {
		return 0
	}
	bits := 32
	if address = address.Unmap(); address.Is6() {
		bits = 64
	}
	network, _ := address.Prefix(bits) // it has no zone then, either
	return maphash.Comparable(clientSeed, network)
}
