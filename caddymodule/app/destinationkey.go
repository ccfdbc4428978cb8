package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// A tracker's id has a keyed hash of its API key in it: it distinguishes
// trackers without giving the key away. The hash's own key is in Caddy's
// storage, as what waits in the queue is known by the id: that mustn't change
// with the secret. It is derived from the secret that is there when it is first
// needed, so that nodes with one secret agree, and so do those whose storage
// can't be written.

const (
	// destinationKeyFile is where the key is in Caddy's storage, in
	// hexadecimal.
	destinationKeyFile = "tagged_urls/destinations.key"
	// destinationKeyLimit is how long to wait for the storage: hits wait, too,
	// and a key can be derived without it.
	destinationKeyLimit = 3 * time.Second
)

// destinationKey makes the hashes of API keys.
type destinationKey []byte

// newDestinationKey derives the key from a secret.
func newDestinationKey(secret []byte) destinationKey {
	return destinationKey(secret).authenticate("tagged-urls destination")
}

func (k destinationKey) authenticate(text string) []byte {
	mac := hmac.New(sha256.New, k)
	mac.Write(append(binary.AppendUvarint(nil, uint64(len(text))), text...))
	return mac.Sum(nil)
}

// hash returns a short keyed hash of an API key, in hexadecimal.
func (k destinationKey) hash(key string) string { return hex.EncodeToString(k.authenticate(key)[:8]) }

// unkeyed makes the hashes while there is neither a stored key nor a secret.
// They hide an API key as well as the others do, unless it is so short that it
// can be guessed.
var unkeyed = newDestinationKey([]byte("no secret"))

// destinationKeys returns the key of the trackers' ids, and those by which they
// may have been made before. The secret is nil if there is none.
func (a *App) destinationKeys(secret []byte) (current destinationKey, former []destinationKey) {
	if a.capture != nil { // a dry run, which leaves the storage alone
		return newDestinationKey(secret), nil
	}
	former = []destinationKey{unkeyed}
	if secret != nil {
		former = append(former, newDestinationKey(secret))
	}
	ctx, cancel := context.WithTimeout(a.ctx, destinationKeyLimit)
	defer cancel()
	if a.Secret != "" { // there may have been none before
		if stored, err := a.storage.Load(ctx, secretKey); err == nil {
			former = append(former, newDestinationKey(stored))
		}
	}
	current, err := a.storedDestinationKey(ctx, secret)
	if err != nil {
		a.log.Warn("can't keep the key of the trackers' ids in Caddy's storage: until it is there, records that wait aren't delivered after a change of `secret`, unless the tracker has an `id`",
			zap.String("key", destinationKeyFile), zap.Error(err))
		if current = unkeyed; secret != nil {
			current = newDestinationKey(secret)
		}
	}
	return current, slices.DeleteFunc(former, func(k destinationKey) bool { return hmac.Equal(k, current) })
}

// storedDestinationKey loads the key from Caddy's storage, or puts one there.
func (a *App) storedDestinationKey(ctx context.Context, secret []byte) (destinationKey, error) {
	load := func() (destinationKey, error) {
		text, err := a.storage.Load(ctx, destinationKeyFile)
		if err != nil {
			return nil, err
		}
		key, err := hex.DecodeString(string(text))
		if err != nil || len(key) != sha256.Size {
			return nil, fmt.Errorf("%s is damaged: restore it, or delete it to have a new one made", destinationKeyFile)
		}
		return key, nil
	}
	key, err := load()
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if secret == nil {
		return nil, err
	}
	if err := a.storage.Lock(ctx, destinationKeyFile); err != nil {
		return nil, err
	}
	defer unlock(ctx, a.storage, destinationKeyFile)
	if key, err = load(); !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = newDestinationKey(secret)
	return key, a.storage.Store(ctx, destinationKeyFile, []byte(hex.EncodeToString(key)))
}

func unlock(ctx context.Context, storage certmagic.Storage, name string) {
	_ = storage.Unlock(context.WithoutCancel(ctx), name)
}
