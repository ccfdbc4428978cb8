package tagging

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

// Daily gives visitors an identity for a day where no cookie may: a hash of
// what the request shows anyhow, under a random key that is never stored and is
// replaced at midnight UTC. From then on nobody can tell whose the old
// identities were, or that a new one is the same visitor's. The zero value is
// ready, and safe for concurrent use.
type Daily struct {
	mu  sync.Mutex
	day int64 // since the Unix epoch, UTC
	key []byte
}

// Identity returns the identity of a visitor on the day of now. Visitors with
// the same address and User-Agent count as one; without an address, each call
// is its own visitor.
func (d *Daily) Identity(site, clientIP, userAgent string, now time.Time) string {
	if clientIP == "" {
		return rand.Text()
	}
	mac := hmac.New(sha256.New, d.keyOf(now))
	mac.Write(appendString(appendString(appendString(nil, site), clientIP), userAgent))
	return anonymousEncoding.EncodeToString(mac.Sum(nil)[:len(Anonymous{})])
}

// keyOf returns the day's key. A request that arrived before midnight and is
// looked at after it gets the new one; a clock that has been set back further
// makes a new key too, or the old one would live too long.
func (d *Daily) keyOf(now time.Time) []byte {
	day := now.Unix() / (24 * 60 * 60)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.key == nil || day != d.day && day != d.day-1 {
		d.day, d.key = day, []byte(rand.Text())
	}
	return d.key
}
