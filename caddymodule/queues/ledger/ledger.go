// Package ledger remembers on disk which anonymous identities were aliased: an
// alias can't be undone, so each identity gets one for good. A queue on this
// machine's disk keeps a ledger beside its records.
//
// It is one file, to which claims are appended. What it takes up is bounded: of
// too many claims the half goes whose identities are the oldest. From then on
// identities that old are in doubt for good. So are those of another ledger: a
// node doesn't know what another one has sent, and after the loss of its file
// not what it has sent itself.
package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxClaims is how many claims and releases are in the file at most, at 16
	// bytes each. In memory each identity takes up some 40 bytes.
	maxClaims = 1 << 20
	// reopenPause is the least time between two attempts to use a file that
	// can't be used.
	reopenPause = time.Second
	// aheadAtMost is how far an identity may seem to come from the future. One
	// from further ahead was made while the clock was wrong, so that nobody
	// knows how old it is.
	aheadAtMost = time.Hour
)

// Ledger is an open ledger. Only one may be open on a directory at a time. Its
// methods may be called at the same time.
//
// One goroutine writes, and syncs once for all who have come meanwhile.
type Ledger struct {
	path string
	log  *zap.Logger

	wake chan struct{}
	done chan struct{} // closed when the writer has ended
	name atomic.Uint64 // 0 while the file can't be used

	mu      sync.Mutex // guards the following
	pending []request
	closed  bool

	table // what only the writer uses
}

// request is a claim, or the release of one.
type request struct {
	id     uint64
	ledger uint64
	made   time.Time
	answer chan answer // nil: a release
}

type answer struct {
	first bool
	err   error
}

// Open opens the ledger in a directory, and makes both if they aren't there. If
// that fails it is tried again when claims come, which get an error until then.
func Open(dir string, log *zap.Logger) *Ledger {
	return open(dir, log, table{limit: maxClaims, sync: (*os.File).Sync, now: time.Now})
}

func open(dir string, log *zap.Logger, t table) *Ledger {
	l := &Ledger{
		path: filepath.Join(dir, "aliases"), log: log,
		wake: make(chan struct{}, 1), done: make(chan struct{}), table: t,
	}
	l.ready()
	go l.run()
	return l
}

// Name tells the ledger from all others. It is 0 while that isn't known. After
// a loss of claims it is another one.
func (l *Ledger) Name() uint64 { return l.name.Load() }

// Claim notes that an identity is about to be aliased. It was made at some time
// while the ledger had the given name. It is the first time if nobody has
// claimed it before; then that is on disk. No alias may be sent unless it is,
// so neither after an error: [delivery.ErrAliasDoubt], [delivery.ErrClosed],
// that of ctx, or the storage's own.
func (l *Ledger) Claim(ctx context.Context, ledger uint64, anonymous [16]byte, made time.Time) (first bool, err error) {
	// Half of an identity's random bits are enough to know it again. If two
	// have the same, one of them gets no alias.
	r := request{binary.BigEndian.Uint64(anonymous[:]), ledger, made, make(chan answer, 1)}
	if !l.submit(r) {
		return false, delivery.ErrClosed
	}
	select {
	case a := <-r.answer:
		return a.first, a.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Release takes a claim back, soon: its alias is not sent. Only who was the
// first to claim the identity may do that.
func (l *Ledger) Release(anonymous [16]byte) {
	l.submit(request{id: binary.BigEndian.Uint64(anonymous[:])})
}

// submit hands a request to the writer, unless the ledger is closed.
func (l *Ledger) submit(r request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.pending = append(l.pending, r)
	l.kick()
	return true
}

func (l *Ledger) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Close lets go of the file. What was handed in before is written.
func (l *Ledger) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.kick()
	<-l.done
	return nil
}

// run is the writer.
func (l *Ledger) run() {
	defer close(l.done)
	for {
		<-l.wake
		l.mu.Lock()
		batch, closed := l.pending, l.closed
		l.pending = nil
		l.mu.Unlock()
		if len(batch) > 0 {
			l.write(batch)
		}
		if closed {
			l.letGo()
			return
		}
	}
}

// write makes a batch durable and answers it.
func (l *Ledger) write(batch []request) {
	answers := make([]answer, len(batch))
	err := l.ready()
	var entries []byte
	for i, r := range batch {
		switch {
		case err != nil:
		case r.answer == nil:
			entries = l.release(entries, r.id)
		case !l.knows(r.ledger, r.made):
			answers[i].err = delivery.ErrAliasDoubt
		default:
			entries, answers[i].first = l.claim(entries, r.id, r.made)
		}
	}
	if err == nil && len(entries) > 0 {
		if err = l.append(entries); err != nil {
			// Nobody knows what of it is on disk: the file is read again.
			l.letGo()
			l.trouble(err)
		}
	}
	for i, r := range batch {
		if r.answer == nil {
			continue
		}
		if err != nil {
			answers[i] = answer{err: fmt.Errorf("the ledger of aliases: %w", err)}
		}
		r.answer <- answers[i]
	}
}

// ready sees to it that the file is open and has room.
func (l *Ledger) ready() error {
	if l.file != nil && !l.full() {
		return nil
	}
	if l.failed != nil && l.now().Sub(l.failedAt) < reopenPause {
		return l.failed
	}
	err := l.load(l.path)
	if err == nil && l.full() {
		l.forget()
		l.log.Info("the ledger of aliases is full: anonymous visitors from before get no alias any more",
			zap.String("path", l.path), zap.Time("before", time.UnixMilli(l.horizon)))
		err = l.rewrite(l.path)
	} else if err == nil && l.lost != nil {
		// That it is a new one is the usual case.
		if !errors.Is(l.lost, os.ErrNotExist) {
			l.log.Error("the ledger of aliases is damaged: anonymous visitors from before get no alias any more",
				zap.String("path", l.path), zap.Error(l.lost))
		}
		err = l.rewrite(l.path)
	}
	if err != nil {
		l.letGo()
		l.trouble(err)
		return err
	}
	l.name.Store(l.table.name)
	if l.failed != nil {
		l.failed = nil
		l.log.Info("the ledger of aliases can be used again", zap.String("path", l.path))
	}
	return nil
}

// trouble notes that the file can't be used, and logs it once.
func (l *Ledger) trouble(err error) {
	l.name.Store(0)
	if l.failed == nil {
		l.log.Error("the ledger of aliases can't be used: no aliases are sent until it can; that is tried again",
			zap.String("path", l.path), zap.Error(err))
	}
	l.failed, l.failedAt = err, l.now()
}
