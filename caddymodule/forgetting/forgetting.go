// Package forgetting is the list of people who asked to be forgotten: keyed
// hashes of their names, in Caddy's storage, which a fleet can share.
package forgetting

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/text/unicode/norm"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// prefix is where people are in the storage, each by their hash.
	prefix = "tagged_urls/forgotten"
	// secretKey is where the hashes' key is. It isn't the cookies': that one may
	// be replaced.
	secretKey = "tagged_urls/forgotten.key"
)

// Person is somebody who asked to be forgotten.
type Person struct {
	// Hash is the keyed hash of the name, in hexadecimal.
	Hash string `json:"hash"`
	// Since is when the person was put on the list.
	Since time.Time `json:"since"`
	// Pseudonyms are hashes of what the name is recorded as elsewhere.
	Pseudonyms []string `json:"pseudonyms,omitempty"`
}

// List is the list, as it was when it was last loaded. Its methods may be called
// at the same time.
type List struct {
	changing sync.Mutex
	state    atomic.Pointer[state]
}

type state struct {
	forgotten  *tagging.Forgotten
	people     map[string]Person
	generation int
}

// Process is the list of Caddy's own process.
var Process = new(List)

// Has reports whether a name is on the list, however its accents are encoded.
// While the list is empty it costs nothing.
func (l *List) Has(name string) bool {
	s := l.state.Load()
	return s != nil && (s.forgotten.Has(name) || !norm.NFC.IsNormalString(name) && s.forgotten.Has(norm.NFC.String(name)))
}

// Generation changes with the list.
func (l *List) Generation() int {
	if s := l.state.Load(); s != nil {
		return s.generation
	}
	return 0
}

// People returns the list, the oldest first.
func (l *List) People() []Person {
	s := l.state.Load()
	if s == nil {
		return []Person{}
	}
	return slices.SortedFunc(maps.Values(s.people), func(a, b Person) int { return a.Since.Compare(b.Since) })
}

// Load reads what others have changed. The error also tells, once, of an entry
// that says nothing this version understands.
func (l *List) Load(ctx context.Context, storage certmagic.Storage) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	_, strange, err := l.read(ctx, storage, "")
	return errors.Join(strange, err)
}

// load is read for who has another use for the list.
func (l *List) load(ctx context.Context, storage certmagic.Storage, again string) (secret []byte, err error) {
	secret, _, err = l.read(ctx, storage, again)
	return secret, err
}

// read reads the list, and the secret if there is one. Of people who were on it
// before it reads one again. An entry that is damaged, or a later version's, is
// somebody's who asked to be forgotten: its key says who.
func (l *List) read(ctx context.Context, storage certmagic.Storage, again string) (secret []byte, strange, err error) {
	secret, err = storage.Load(ctx, secretKey)
	if errors.Is(err, fs.ErrNotExist) {
		l.set(nil, nil)
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	keys, err := storage.List(ctx, prefix, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	before := l.state.Load()
	people := make(map[string]Person)
	for _, key := range keys {
		hash := path.Base(key)
		if before != nil && hash != again {
			if p, ok := before.people[hash]; ok {
				people[hash] = p
				continue
			}
		}
		text, err := storage.Load(ctx, prefix+"/"+hash)
		if errors.Is(err, fs.ErrNotExist) {
			continue // undone meanwhile
		} else if err != nil {
			return nil, nil, err
		}
		var p Person
		if bad := json.Unmarshal(text, &p); bad != nil {
			strange = errors.Join(strange, fmt.Errorf("%s/%s in Caddy's storage is damaged, or was written by a later version of this module: the person stays forgotten by the name, but not by a pseudonym: %w", prefix, hash, bad))
			p = Person{}
		}
		p.Hash = hash
		people[hash] = p
	}
	l.set(secret, people)
	return secret, strange, nil
}

// set puts a list into effect, if it is another.
func (l *List) set(secret []byte, people map[string]Person) {
	before, now := l.state.Load(), &state{people: people, generation: 1}
	if before != nil {
		if maps.EqualFunc(before.people, people, func(a, b Person) bool { return len(a.Pseudonyms) == len(b.Pseudonyms) }) {
			return
		}
		now.generation = before.generation + 1
	} else if len(people) == 0 {
		return
	}
	var hashes []tagging.ForgottenHash
	for _, p := range people {
		for _, text := range append(slices.Clone(p.Pseudonyms), p.Hash) {
			var hash tagging.ForgottenHash
			if n, err := hex.Decode(hash[:], []byte(text)); err == nil && n == len(hash) {
				hashes = append(hashes, hash)
			}
		}
	}
	now.forgotten = tagging.NewForgotten(secret, hashes...)
	l.state.Store(now)
}

// Add puts a person on the list, for good: by the name, and what it is recorded
// as elsewhere.
func (l *List) Add(ctx context.Context, storage certmagic.Storage, name string, pseudonyms ...string) (Person, error) {
	l.changing.Lock()
	defer l.changing.Unlock()
	hash, err := l.hashes(ctx, storage)
	if err != nil {
		return Person{}, err
	}
	p := Person{Hash: hash(name), Since: time.Now().UTC().Truncate(time.Second)}
	if known, ok := l.known(p.Hash); ok && !known.Since.IsZero() {
		p.Since = known.Since
	}
	for _, pseudonym := range pseudonyms {
		if h := hash(pseudonym); h != p.Hash && !slices.Contains(p.Pseudonyms, h) {
			p.Pseudonyms = append(p.Pseudonyms, h)
		}
	}
	text, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	if err := storage.Store(ctx, prefix+"/"+p.Hash, text); err != nil {
		return p, err
	}
	_, err = l.load(ctx, storage, p.Hash)
	return p, err
}

func (l *List) known(hash string) (Person, bool) {
	s := l.state.Load()
	if s == nil {
		return Person{}, false
	}
	p, ok := s.people[hash]
	return p, ok
}

// Remove takes a person off the list, and reports whether they were on it.
func (l *List) Remove(ctx context.Context, storage certmagic.Storage, name string) (bool, error) {
	l.changing.Lock()
	defer l.changing.Unlock()
	hash, err := l.hashes(ctx, storage)
	if err != nil {
		return false, err
	}
	key := prefix + "/" + hash(name)
	if !storage.Exists(ctx, key) {
		return false, nil
	}
	if err := storage.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	_, err = l.load(ctx, storage, "")
	return true, err
}

// hashes returns the function that hashes names. Its key is made once.
func (l *List) hashes(ctx context.Context, storage certmagic.Storage) (func(string) string, error) {
	secret, err := l.load(ctx, storage, "")
	if err == nil && secret == nil {
		if err = storage.Lock(ctx, secretKey); err != nil {
			return nil, err
		}
		defer func() { _ = storage.Unlock(ctx, secretKey) }()
		if secret, err = l.load(ctx, storage, ""); err == nil && secret == nil {
			secret = []byte(rand.Text() + rand.Text())
			err = storage.Store(ctx, secretKey, secret)
		}
	}
	if err != nil {
		return nil, err
	}
	forgotten := tagging.NewForgotten(secret)
	return func(name string) string {
		hash := forgotten.Hash(norm.NFC.String(name))
		return hex.EncodeToString(hash[:])
	}, nil
}
