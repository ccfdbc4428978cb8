package handler

import (
	"hash/maphash"
	"net/http"
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
