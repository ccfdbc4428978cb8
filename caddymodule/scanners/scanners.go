// Package scanners tells mail scanners from people, by what they do with the
// cookie that each first answer sets: a person's browser brings it back with
// the next link, a scanner opens each link as a stranger. It knows no requests,
// names or addresses, only keyed hashes of them, and those for seconds.
package scanners

import (
	"encoding/binary"
	"time"
)

// Verdict says why a visit was a scanner's. The zero value is a person's.
type Verdict uint8

// The verdicts, the surest last.
const (
	Person  Verdict = iota
	People          // one client opened the links of many
	Links           // one identity's links were opened, each by a stranger
	Decoy           // the client opened a link that nobody sees
	Network         // the client is in a scanner's own network
)

// String returns the verdict's word in properties and metrics, "" of a person's.
func (v Verdict) String() string {
	return [...]string{"", "people", "links", "decoy", "network"}[v]
}

// Limit is how many make a scanner within a time.
type Limit struct {
	N      int
	Window time.Duration
}

// Rules are those by which a visit is judged.
type Rules struct {
	// Links is for different links of one identity, People for identities of
	// one client.
	Links, People Limit
	// Decoy says that there is a decoy, which may be opened last.
	Decoy bool
	// Drop says that scanners' visits aren't delivered at all.
	Drop bool
}

// Wait is for how long after a visit it isn't known whose it was: until all
// windows that it is in are over, and with a decoy twice as long.
func (r Rules) Wait() time.Duration {
	wait := max(r.Links.Window, r.People.Window)
	if r.Decoy {
		wait *= 2
	}
	return wait
}

// Key is what all records of a visit have in common: the first bytes of their
// IDs.
type Key uint64

// KeyOf returns the key of a record's ID.
func KeyOf(id [16]byte) Key { return Key(binary.BigEndian.Uint64(id[:])) }

// Put makes the key that of a record's ID.
func (k Key) Put(id *[16]byte) { binary.BigEndian.PutUint64(id[:], uint64(k)) }

// Visit is a visit without our cookie. What it was, is in keyed hashes, the same
// on all nodes of a fleet; 0 is unknown.
type Visit struct {
	// Record is the key of the records that are to be judged.
	Record Key
	// At is when it arrived.
	At time.Time
	// Person is the identity, and Link the URL, both on one site. Client is who
	// asked there: the address and the User-Agent.
	Person, Link, Client uint64
	// Conn is the connection, if it is the client's own.
	Conn uint64
	// Multiplexed says that a browser has one connection for all it asks at the
	// same time (HTTP/2 and later), not several.
	Multiplexed bool
}

// Judgement is what becomes of a record.
type Judgement struct {
	Verdict Verdict
	Drop    bool
}
