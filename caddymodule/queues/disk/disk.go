// Package disk is the queue that keeps records in a file: every record is on
// disk, and survives kill -9 and power loss, before Put returns.
package disk

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/boltqueue"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

const (
	defaultMaxSize = 1 << 30
	// leastMaxSize has room for the largest record, several times.
	leastMaxSize = 4 << 20
)

func init() {
	caddy.RegisterModule(new(Queue))
}

// Queue keeps records in a directory until they are delivered, however long
// that takes and whatever becomes of Caddy. Only one Caddy can use it at a time.
//
// The directory has mode 0700 and its files have 0600, since they hold
// identities. What was delivered or deleted is in none of them ten minutes
// later. Damage to a file costs the records that it hit.
type Queue struct {
	// The directory; made if it isn't there. Placeholders are resolved at load.
	// What an earlier version has left is taken over: the file that is at the
	// path, or `tagged_urls/queue.db` in Caddy's data directory. Default:
	// `tagged_urls` beside Caddy's data directory, which `caddy storage export`
	// would copy.
	Path string `json:"path,omitempty"`

	// How many bytes of disk the queue may take up, at least 4 MiB. A
	// hundredth of that, or 256 KiB, is for giving space back and for dead
	// letters, which take up a sixteenth at most. A tracker's records may take
	// up seven times what is free, so that one that is down leaves an eighth to
	// the others; of the last thirty-second of that one visitor's address may
	// take as much as it leaves. What has no room is dropped. Default: 1 GiB.
	MaxSize int64 `json:"max_size,omitempty"`

	path, former string // absolute
}

// CaddyModule returns the Caddy module information.
func (*Queue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.queues.disk",
		New: func() caddy.Module { return new(Queue) },
	}
}

// Provision implements [caddy.Provisioner]. It doesn't touch the directory.
func (q *Queue) Provision(caddy.Context) (err error) {
	q.path = filepath.Join(filepath.Dir(caddy.AppDataDir()), "tagged_urls")
	if q.Path == "" {
		q.former, err = filepath.Abs(filepath.Join(caddy.AppDataDir(), "tagged_urls", "queue.db"))
	} else if q.path, err = caddy.NewReplacer().ReplaceOrErr(q.Path, true, true); err != nil {
		return fmt.Errorf("path %s: %w", q.Path, err)
	}
	if err == nil {
		q.path, err = filepath.Abs(q.path)
	}
	return err
}

// Validate implements [caddy.Validator]. It doesn't touch the directory.
func (q *Queue) Validate() error {
	if q.MaxSize != 0 && q.MaxSize < leastMaxSize {
		return fmt.Errorf("max_size is %d bytes, but has to be at least %s", q.MaxSize, humanize.IBytes(leastMaxSize))
	}
	return nil
}

// Key implements [delivery.Opener]: the directory's absolute path.
func (q *Queue) Key() string { return q.path }

// Resolved implements [delivery.Resolver].
func (q *Queue) Resolved() any { return &Queue{Path: q.path, MaxSize: q.MaxSize} }

// Directory implements [delivery.Local].
func (q *Queue) Directory() (path string, maxBytes int64) { return files.Resolve(q.path), q.maxSize() }

// Exists implements [delivery.ExistenceChecker].
func (q *Queue) Exists() bool {
	for _, path := range []string{filepath.Join(q.path, lockName), files.Resolve(q.path) + boltqueue.BesideSuffix, q.former} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	info, err := os.Stat(q.path)
	return err == nil && !info.IsDir() // an earlier version's
}

// Open implements [delivery.Opener].
func (q *Queue) Open(logger *zap.Logger) (delivery.Queue, error) {
	open, err := open(files.Resolve(q.path), q.former, q.maxSize(), files.OS{}, logger)
	if err != nil {
		return nil, err
	}
	return open, nil
}

// Apply implements [delivery.Opener].
func (q *Queue) Apply(open delivery.Queue) {
	if open, ok := open.(*openQueue); ok {
		open.maxSize.Store(q.maxSize())
	}
}

func (q *Queue) maxSize() int64 {
	if q.MaxSize == 0 {
		return defaultMaxSize
	}
	return q.MaxSize
}

// UnmarshalCaddyfile sets up the queue. Syntax:
//
//	queue disk {
//		path     <directory>
//		max_size <size>
//	}
func (q *Queue) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.Errf("the disk queue takes no argument, but has %q: its options go into a block, as in { path %[1]s }", d.Val())
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "path":
			if !d.AllArgs(&q.Path) || q.Path == "" {
				return d.Err("path takes one value, the queue's directory, as in: path /var/lib/caddy/queue")
			}
		case "max_size":
			var value string
			if !d.AllArgs(&value) {
				return d.Err("max_size takes one value, as in: max_size 1GiB")
			}
			size, err := humanize.ParseBytes(value)
			if err != nil || size < leastMaxSize || size > 1<<62 {
				return d.Errf("max_size %s isn't a size of at least %s, such as 512MiB or 1GiB", value, humanize.IBytes(leastMaxSize))
			}
			q.MaxSize = int64(size)
		default:
			return d.Errf("unknown option %s of the disk queue: it has path and max_size", d.Val())
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner         = (*Queue)(nil)
	_ caddy.Validator           = (*Queue)(nil)
	_ caddyfile.Unmarshaler     = (*Queue)(nil)
	_ delivery.Opener           = (*Queue)(nil)
	_ delivery.ExistenceChecker = (*Queue)(nil)
	_ delivery.Local            = (*Queue)(nil)
	_ delivery.Resolver         = (*Queue)(nil)
)
