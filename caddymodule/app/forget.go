package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/text/unicode/norm"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// lookEvery is how often to look at the list of people who asked to be
	// forgotten: another node may have changed it.
	lookEvery = 5 * time.Second
	// mostUnderway is how long hits that began before may take to be queued.
	mostUnderway = time.Second
)

// current is the app of the configuration that was started last.
var current atomic.Pointer[App]

// AddRules adds the rules by which a site records names.
func (a *App) AddRules(rules *tagging.Rules) { a.rules = append(a.rules, rules) }

// Forgotten is the list of people who asked to be forgotten.
func (a *App) Forgotten() *forgetting.List { return cmp.Or(a.forgotten, forgetting.Process) }

// UseForgotten gives an app that isn't started a list of its own.
func (a *App) UseForgotten(l *forgetting.List) { a.forgotten = l }

// startForgetting loads the list, and follows its changes until the
// configuration is unloaded.
func (a *App) startForgetting() {
	current.Store(a)
	a.lookAtForgotten()
	go func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		swept, again := 0, false
		for {
			if now := forgetting.Process.Generation(); now != swept || again {
				again = now != swept // for what was on its way
				if _, err := sweep(a.ctx); err == nil {
					swept = now
				} else {
					again = true
				}
			}
			select {
			case <-a.ctx.Done():
				return
			case <-tick.C:
			}
			a.lookAtForgotten()
		}
	}()
}

func (a *App) lookAtForgotten() {
	ctx, cancel := context.WithTimeout(a.ctx, lookEvery)
	defer cancel()
	if err := forgetting.Process.Load(ctx, a.storage); err != nil && a.ctx.Err() == nil {
		a.log.Error("can't read all of the list of forgotten people from Caddy's storage; what was read, now or before, applies", zap.Error(err))
	}
}

// sweep removes from the open queues what they hold of people on the list.
func sweep(ctx context.Context) (total delivery.Forgotten, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	match := forgetting.Process.Match()
	err = queuepool.Process.EachOpen(ctx, func(queue delivery.Queue, _ *delivery.Engine) error {
		forgetter, ok := queue.(delivery.Forgetter)
		if !ok {
			return errors.New("this queue can't forget")
		}
		for {
			found, err := forgetter.Forget(match)
			underway := found.Underway
			found.Underway = 0
			total.Add(found)
			if err != nil || found == (delivery.Forgotten{}) {
				total.Underway += underway
				return err
			}
			// An anonymous identity may have been seen to be theirs.
		}
	})
	return total, err
}

// ForgottenPerson is what Forget did.
type ForgottenPerson struct {
	forgetting.Person
	delivery.Forgotten
}

var errNotStarted = errors.New("no site uses tagged_urls")

// ErrSealed is returned of an identity that is a token which no site opens.
var ErrSealed = errors.New("this is a sealed identity that no site opens: give the identity itself")

// Forget puts a person on the list, and removes from the open queues what they
// hold of them.
func Forget(ctx context.Context, identity string) (f ForgottenPerson, err error) {
	a := current.Load()
	if a == nil {
		return f, errNotStarted
	}
	name, err := a.nameOf(identity)
	if err != nil {
		return f, err
	}
	var pseudonyms []string
	for _, rules := range a.rules {
		// Macs decompose accents, which makes another hash of an address.
		pseudonyms = append(pseudonyms, rules.Pseudonym(name), rules.Pseudonym(norm.NFC.String(name)), rules.Pseudonym(norm.NFD.String(name)))
	}
	if f.Person, err = forgetting.Process.Add(ctx, a.storage, name, pseudonyms...); err != nil {
		return f, err
	}
	if f.Forgotten, err = sweep(ctx); err != nil {
		return f, err
	}
	// What hits that began before have brought since.
	select {
	case <-time.After(min(time.Duration(a.QueueTimeout), mostUnderway)):
	case <-ctx.Done():
	}
	more, err := sweep(ctx)
	f.Waiting, f.Dead, f.Underway = f.Waiting+more.Waiting, f.Dead+more.Dead, more.Underway
	return f, err
}

// Remember takes a person off the list, and reports whether they were on it.
func Remember(ctx context.Context, identity string) (bool, error) {
	a := current.Load()
	if a == nil {
		return false, errNotStarted
	}
	name, err := a.nameOf(identity)
	if err != nil {
		return false, err
	}
	return forgetting.Process.Remove(ctx, a.storage, name)
}

// nameOf returns the name that an identity is accepted as, or the identity
// itself: it may have been accepted once. The sites' keys open a sealed one.
func (a *App) nameOf(identity string) (string, error) {
	name, reason := tagging.NewRules(tagging.RulesOptions{}).Unseal(identity)
	for _, rules := range a.rules {
		if reason != "" {
			name, reason = rules.Unseal(identity)
		}
	}
	if reason != "" {
		return "", fmt.Errorf("%w: %s", ErrSealed, reason.Explain())
	}
	if accepted, reason := tagging.NewRules(tagging.RulesOptions{NoRejectWords: true}).Accept(name); reason == "" {
		return accepted, nil
	}
	return name, nil
}
