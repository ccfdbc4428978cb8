package app

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

// Tracker is a tracker as a site configured it.
type Tracker struct {
	// Name is the module's name.
	Name string
	// Module is the tracker itself.
	Module delivery.Tracker
	// Options are those that every tracker has.
	Options delivery.TrackerOptions
	// Disabled says why it gets nothing delivered; its records wait.
	Disabled string
	// ID is the destination of its records, known once the app is ready.
	ID string

	// former are other ids under which its records may wait: what ID was while
	// its key's placeholder was empty, and what it was by other keys of hashes.
	former []string
}

// AddTracker adds a tracker that a site has loaded.
func (a *App) AddTracker(module any) (*Tracker, error) {
	t := &Tracker{Name: module.(caddy.Module).CaddyModule().ID.Name()}
	var ok bool
	if t.Module, ok = module.(delivery.Tracker); !ok {
		return nil, fmt.Errorf("tagged_urls: module %T is no tracker", module)
	}
	if configured, ok := module.(delivery.Configured); ok {
		t.Options = configured.Options()
	}
	if d, ok := module.(delivery.Disabler); ok {
		t.Disabled = d.Disabled()
	}
	if err := a.conflict(t); err != nil {
		return nil, err
	}
	a.trackers = append(a.trackers, t)
	return t, nil
}

// name gives the tracker its id, and the ids that it may have had before.
func (t *Tracker) name(current destinationKey, former []destinationKey) {
	if t.ID = t.Options.ID; t.ID != "" {
		return
	}
	t.ID = t.Name
	named, ok := t.Module.(delivery.Identifier)
	if !ok {
		return
	}
	endpoint, key := named.Identity()
	if p, ok := t.Module.(delivery.PlaceholderKeyed); ok && p.Placeholder() != "" {
		waiting := t.Name + ":" + p.Placeholder()
		if t.Disabled != "" {
			t.ID = waiting
			return
		}
		t.former = append(t.former, waiting)
	}
	t.ID += ":" + endpoint
	if key == "" {
		return
	}
	for _, k := range former {
		t.former = append(t.former, t.ID+"#"+k.hash(key))
	}
	t.ID += "#" + current.hash(key)
}

// conflict refuses a tracker that has the id of a different one: the records of
// one would go to the other.
func (a *App) conflict(t *Tracker) error {
	if t.Options.ID == "" || t.Disabled != "" {
		return nil
	}
	for _, other := range a.trackers {
		if other.Options.ID == t.Options.ID && other.Disabled == "" && other.account() != t.account() {
			return fmt.Errorf("tagged_urls: two different trackers (%s and %s) have the id %q; the records of one would go to the other, so give each an id of its own",
				other.Name, t.Name, t.Options.ID)
		}
	}
	return nil
}

// account is where a tracker's records end up.
func (t *Tracker) account() [3]string {
	account := [3]string{t.Name}
	if named, ok := t.Module.(delivery.Identifier); ok {
		account[1], account[2] = named.Identity()
	}
	return account
}

// destinations are the trackers of all sites.
func (a *App) destinations() (all []queuepool.Destination) {
	for _, t := range a.trackers {
		all = append(all, queuepool.Destination{
			Destination: delivery.Destination{ID: t.ID, Module: t.Name, Tracker: t.Module, Concurrency: t.Options.Concurrency},
			Disabled:    t.Disabled, Former: t.former,
		})
	}
	return all
}
