package natsqueue

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// What a record says reaches the servers sealed only. They keep copies that
// nobody can delete: in the Raft log until its next snapshot, and in a block of
// the stream until most of that is gone.
//
// A sealed body is sealedForm, the key's ID, and what AES-256-GCM makes of the
// record: a random nonce of 12 bytes, the ciphertext, and a tag of 16. The
// first two are authenticated, too. With random nonces one key is good for 2^32
// messages (NIST SP 800-38D, 8.3), which is more than a day of the largest
// fleet; so there's a key for each day.
const (
	// sealedForm can't lead a record in the clear. To former versions it is a
	// record of a newer one, which they leave to others.
	sealedForm  = 0xff
	keySize     = 32
	sealedHead  = 1 + len(keyID{})
	leastSealed = sealedHead + 12 + 16
)

const (
	day = 24 * time.Hour
	// graceDays is for how many days after its own a key still seals, if no
	// newer one can be had.
	graceDays = 1
	// marginDays is for how many days more a message may claim to be older than
	// it is, as servers' clocks differ.
	marginDays = 1
)

// keyID says which key has sealed a body: by the servers' day on which it was
// made, counted from 1970, and the beginning of its SHA-256.
type keyID [4 + 8]byte

func (id keyID) day() int64     { return int64(binary.BigEndian.Uint32(id[:])) }
func (id keyID) String() string { return hex.EncodeToString(id[:]) }

// dayOf counts the days since 1970, in UTC.
func dayOf(t time.Time) int64 { return t.Unix() / int64(day/time.Second) }

// needless reports whether the key has sealed nothing of what is left, if the
// oldest of that was stored at some time.
func (id keyID) needless(oldest time.Time) bool {
	return dayOf(oldest) > id.day()+graceDays+marginDays
}

// parseKeyID reads what String wrote.
func parseKeyID(s string) (id keyID, ok bool) {
	b, err := hex.DecodeString(s)
	return id, err == nil && copy(id[:], b) == len(id) && len(b) == len(id)
}

// dataKey seals records and opens them.
type dataKey struct {
	id     keyID
	secret []byte
	aead   cipher.AEAD
}

// newKey returns the key of a day with some secret bytes.
func newKey(day int64, secret []byte) (*dataKey, error) {
	block, err := aes.NewCipher(secret)
	if err != nil || len(secret) != keySize {
		return nil, errors.New("the key has a wrong length")
	}
	k := &dataKey{secret: bytes.Clone(secret)}
	if k.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(k.id[:], uint32(day))
	sum := sha256.Sum256(secret)
	copy(k.id[4:], sum[:])
	return k, nil
}

func randomKey(day int64) (*dataKey, error) {
	secret := make([]byte, keySize)
	rand.Read(secret)
	return newKey(day, secret)
}

func (k *dataKey) seal(body []byte) []byte {
	sealed := make([]byte, sealedHead, leastSealed+len(body))
	sealed[0] = sealedForm
	copy(sealed[1:], k.id[:])
	return k.aead.Seal(sealed, nil, body, sealed)
}

// errChanged is why a sealed body isn't a record.
var errChanged = errors.New("it was changed after it was sealed")

func (k *dataKey) open(sealed []byte) ([]byte, error) {
	body, err := k.aead.Open(nil, nil, sealed[sealedHead:], sealed[:sealedHead])
	if err != nil {
		return nil, errChanged
	}
	return body, nil
}

// sealedBy returns which key has sealed a body, if it is sealed.
func sealedBy(body []byte) (id keyID, sealed bool) {
	if len(body) < leastSealed || body[0] != sealedForm {
		return id, false
	}
	copy(id[:], body[1:])
	return id, true
}

// keyring is what this node knows of the keys, over all its connections.
type keyring struct {
	log     *zap.Logger
	current atomic.Pointer[currentKey]
	// ahead is by how much tests let the servers' clocks be ahead, and pause for
	// how long what can't be had isn't asked for again.
	ahead, pause atomic.Int64

	asking sync.Mutex // for keys that aren't known

	mu     sync.Mutex // guards the following
	known  map[keyID]*dataKey
	absent map[keyID]time.Time // the keys that couldn't be had, and when they are asked for again
	why    string              // why there's no key to seal with
	since  time.Time           // since when
	stuck  string              // why keys can't be erased
}

// maxAbsent bounds the keys that are remembered as missing.
const maxAbsent = 1000

func newKeyring(log *zap.Logger) *keyring {
	r := &keyring{log: log, known: make(map[keyID]*dataKey), absent: make(map[keyID]time.Time)}
	r.pause.Store(int64(keyPause))
	return r
}

// currentKey is what seals, for a while from when it was fetched.
type currentKey struct {
	*dataKey
	fetched time.Time
	lasts   time.Duration
}

// over reports whether it may seal no longer. The clock that doesn't jump may
// stand still while the machine is suspended, and the other may be set.
func (k *currentKey) over() bool {
	now := time.Now()
	return now.Sub(k.fetched) >= k.lasts || now.Round(0).Sub(k.fetched.Round(0)) >= k.lasts
}

// use makes a key the one that seals, at some time of the servers.
func (r *keyring) use(k *dataKey, now time.Time) {
	end := time.Unix((k.id.day()+1+graceDays)*int64(day/time.Second), 0)
	r.current.Store(&currentKey{k, time.Now(), end.Sub(now)})
}

// sealing returns the key that seals, nil if there's none.
func (r *keyring) sealing() *dataKey {
	if k := r.current.Load(); k != nil && !k.over() {
		return k.dataKey
	}
	return nil
}

// seal seals a body. Without a key it stays as it is: nothing is to be lost.
func (r *keyring) seal(body []byte) []byte {
	if k := r.sealing(); k != nil {
		return k.seal(body)
	}
	return body
}

// sealAll seals the messages that aren't yet.
func (r *keyring) sealAll(messages []*nats.Msg) {
	for _, m := range messages {
		if _, sealed := sealedBy(m.Data); !sealed {
			m.Data = r.seal(m.Data)
		}
	}
}

// setReason notes why a record was given up, which may be what a tracker
// answered, with the visitor's name in it.
func (r *keyring) setReason(h nats.Header, reason string) {
	if k := r.sealing(); k != nil {
		h.Set(headerSealedReason, base64.StdEncoding.EncodeToString(k.seal([]byte(reason))))
	} else {
		h.Set(headerReason, escape(reason))
	}
}

func (r *keyring) get(id keyID) *dataKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[id]
}

func (r *keyring) add(k *dataKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[k.id] = k
	delete(r.absent, k.id)
}

func (r *keyring) drop(id keyID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, id)
}

func (r *keyring) all() (keys []*dataKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.known {
		keys = append(keys, k)
	}
	return keys
}

// missing reports whether a key couldn't be had a moment ago.
func (r *keyring) missing(id keyID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.absent[id])
}

// miss notes that a key couldn't be had, and complains the first time.
func (r *keyring) miss(id keyID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, again := r.absent[id]; !again {
		if len(r.absent) >= maxAbsent {
			clear(r.absent)
		}
		r.log.Error("records wait, as the key that sealed them can't be had; it is asked for again all the time", zap.Stringer("key", id), zap.Error(err))
	}
	r.absent[id] = time.Now().Add(time.Duration(r.pause.Load()))
}

// erased is called with what became of erasing keys, and complains once.
func (r *keyring) erased(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	why := fmt.Sprint(err)
	if err != nil && why != r.stuck {
		r.log.Warn("keys that nothing needs any more can't be erased; it is tried all the time", zap.Error(err))
	}
	r.stuck = why
}

// verdict is called with what became of having a key to seal with. It returns
// the error if it may pass, and it is too early to do without a key.
func (r *keyring) verdict(err error, passing bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if r.why != "" {
			r.log.Info("records are sealed")
		}
		r.why, r.since = "", time.Time{}
		return nil
	}
	if r.since.IsZero() {
		r.since = time.Now()
	}
	have := r.sealing() != nil
	if passing && time.Since(r.since) < keyPatience {
		if have {
			return nil
		}
		return err
	}
	what := "records can't be sealed: what they say is in the clear in the NATS servers' files, where copies stay for a while when a person is forgotten. " +
		"Allow the user what docs/fleet.md lists for the stream <stream>_keys, and the account one more stream"
	if have {
		what = "can't have a new key to seal records with; the former one is used for now"
	}
	if why := what + err.Error(); r.why != why {
		r.why = why
		r.log.Warn(what, zap.Error(err))
	}
	return nil
}
