package handler

import (
	"hash/maphash"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// clientSeed makes a client's hash say nothing to anybody else.
var clientSeed = maphash.MakeSeed()

// clientOf returns what a queue tells clients apart by, see
// [delivery.Entry.Client]: the address, or its network of IPv6, all of which
// one client has.
func clientOf(r *http.Request) uint64 {
	network, _, ok := clientNetwork(r)
	if !ok {
		return 0
	}
	return maphash.Comparable(clientSeed, network)
}

// untrusted counts hits, see UntrustedForwarded.
var untrusted atomic.Int64

// UntrustedForwarded returns how many hits have come with X-Forwarded-For from
// what isn't in trusted_proxies. If that is a proxy, its address counts as that
// of all its visitors.
func UntrustedForwarded() int64 { return untrusted.Load() }

func countUntrusted(r *http.Request) {
	if len(r.Header["X-Forwarded-For"]) == 0 {
		return
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		untrusted.Add(1)
	}
}
