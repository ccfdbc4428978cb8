package doctor

import (
	"encoding/json"

	"github.com/caddyserver/certmagic"
)

// storage looks whether the nodes of a fleet share what they have to.
func (e *examination) storage() {
	var options struct {
		Queue  struct{ Queue string } `json:"queue"`
		Secret string                 `json:"secret"`
	}
	_ = json.Unmarshal(e.config.Apps.TaggedURLs, &options)
	if options.Queue.Queue != "nats" {
		e.fine(checkStorage, "one node: nothing to share")
		return
	}
	dir, local := e.localStorage()
	if !local {
		e.fine(checkStorage, "Caddy's storage can be shared by the fleet")
		return
	}
	if disk, err := e.Disk(existing(dir)); err == nil && disk.Network != "" {
		e.fine(checkStorage, "Caddy's storage is on a file system that nodes can share ("+disk.Network+")")
		return
	}
	where := e.source.global("tagged_urls", "nats")
	if options.Secret == "" {
		e.found(Warning, checkStorage, where, "the queue is a fleet's, but Caddy's storage is this node's own ("+dir+"), and there is no `secret`: each node makes its own key, so that a visitor who meets another node counts as new",
			"give all nodes the same `secret {env.TAGGED_URLS_SECRET}`, or a storage that they share (the global option `storage`)")
		return
	}
	e.found(Warning, checkStorage, where, "the queue is a fleet's, but Caddy's storage is this node's own ("+dir+"): who is forgotten (`caddy tagged-urls forget`) is forgotten on this node alone",
		"have the nodes share a storage (the global option `storage`), or run `forget` on each of them; certificates are each node's own, too")
}

// localStorage returns the directory of a storage that is a file system's.
func (e *examination) localStorage() (dir string, local bool) {
	storage, err := e.config.LoadStorage(e.ctx)
	files, local := storage.(*certmagic.FileStorage)
	if err != nil || !local {
		return "", false
	}
	return files.Path, true
}
