package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// ids returns what a tracker's id is, and what it may have been, by a
// configuration's secret ("" for the one in the storage) and storage.
func ids(t *testing.T, secret string, storage certmagic.Storage) (id string, former []string) {
	t.Helper()
	tracker := &Tracker{Name: "m", Module: account{"e", "KEY"}}
	a := &App{
		Secret: secret, storage: storage, log: zap.NewNop(), ready: make(chan struct{}),
		ctx: caddy.Context{Context: t.Context()}, trackers: []*Tracker{tracker},
	}
	_ = a.prepare()
	return tracker.ID, tracker.former
}

const (
	secretA, secretB = "0123456789abcdef", "fedcba9876543210"
	// idA is what earlier versions made of secret A.
	idA = "m:e#575309527ded1daf"
)

func TestIDsSurviveAChangeOfSecret(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	if id, _ := ids(t, secretA, storage); id != idA {
		t.Errorf("the id is %s, and was %s before it had a key of its own", id, idA)
	}
	for _, secret := range []string{secretB, "", secretA, secretB} {
		if id, _ := ids(t, secret, storage); id != idA {
			t.Errorf("secret %q makes the id %s, want %s", secret, id, idA)
		}
	}
}

// What waits under an id that was made otherwise is found.
func TestFormerIDs(t *testing.T) {
	broken := brokenStorage{}
	fresh := func() certmagic.Storage { return &certmagic.FileStorage{Path: t.TempDir()} }
	before := func(secret string, storage certmagic.Storage) string {
		id, _ := ids(t, secret, storage)
		return id
	}
	stored := fresh()
	inStorage := before("", stored)
	if err := os.Remove(filepath.Join(stored.(*certmagic.FileStorage).Path, destinationKeyFile)); err != nil {
		t.Fatal(err)
	}
	kept := fresh()
	before(secretA, kept)
	tests := []struct {
		name, was string
		secret    string
		storage   certmagic.Storage
	}{
		{"there was no secret", before("", broken), secretA, fresh()},
		{"there was no secret, and one is made", before("", broken), "", fresh()},
		{"the secret was in the storage, before ids had a key", inStorage, secretA, stored},
		{"the storage couldn't be written", before(secretB, broken), secretB, kept},
		{"another node began with that secret", before(secretB, fresh()), secretB, kept},
		{"the key is damaged", before(secretA, kept), secretA, damaged(t)},
	}
	for _, test := range tests {
		id, former := ids(t, test.secret, test.storage)
		if id != test.was && !slices.Contains(former, test.was) {
			t.Errorf("%s: the id was %s; now it is %s, or %q", test.name, test.was, id, former)
		}
		if slices.Contains(former, id) {
			t.Errorf("%s: %s is former and current", test.name, id)
		}
	}
	if one, other := before("", broken), before("", broken); one != other {
		t.Errorf("without a secret ids are %s and %s", one, other)
	}
}

func damaged(t *testing.T) certmagic.Storage {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	if err := storage.Store(t.Context(), destinationKeyFile, []byte("x")); err != nil {
		t.Fatal(err)
	}
	return storage
}

// brokenStorage is one that can't be read or written.
type brokenStorage struct{ certmagic.Storage }

var errBroken = errors.New("input/output error")

func (brokenStorage) Load(context.Context, string) ([]byte, error) { return nil, errBroken }
func (brokenStorage) Store(context.Context, string, []byte) error  { return errBroken }
func (brokenStorage) Lock(context.Context, string) error           { return errBroken }
func (brokenStorage) Unlock(context.Context, string) error         { return errBroken }
