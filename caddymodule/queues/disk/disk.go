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
)

const (
	defaultMaxSize = 1 << 30
	// leastMaxSize has room for the largest record, several times.
	leastMaxSize = 4 << 20
)

func init() {
	caddy.RegisterModule(new(Queue))
}

// Queue keeps records in one file until they are delivered, however long that
// takes and whatever becomes of Caddy. Only one Caddy can use a file at a time.
//
// The file has mode 0600, since it holds identities. A damaged file is renamed
// to `<path>.corrupt-<time>`, and the queue starts anew. While many hits arrive
// at once, the last ones are in a journal beside it, `<path>.journal`, which a
// crash may leave: whoever moves the file then moves both.
type Queue struct {
	// The file; made, with its directory, if it isn't there. Placeholders are
	// resolved at load. Default: `tagged_urls/queue.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// How many bytes of disk the queue may take up, at least 4 MiB. An eighth
	// of that is for giving space back, and some for noting what was delivered;
	// when the rest is in use, hits are dropped until records have been
	// delivered. Dead letters take up a sixteenth at most. Default: 1 GiB.
	MaxSize int64 `json:"max_size,omitempty"`

	path string // absolute
}

// CaddyModule returns the Caddy module information.
func (*Queue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.queues.disk",
		New: func() caddy.Module { return new(Queue) },
	}
}

// Provision implements [caddy.Provisioner]. It doesn't touch the file.
func (q *Queue) Provision(caddy.Context) error {
	q.path = filepath.Join(caddy.AppDataDir(), "tagged_urls", "queue.db")
	if q.Path != "" {
		path, err := caddy.NewReplacer().ReplaceOrErr(q.Path, true, true)
		if err != nil {
			return fmt.Errorf("path %s: %w", q.Path, err)
		}
		q.path = path
	}
	var err error
	q.path, err = filepath.Abs(q.path)
	return err
}

// Validate implements [caddy.Validator]. It doesn't touch the file.
func (q *Queue) Validate() error {
	if q.MaxSize != 0 && q.MaxSize < leastMaxSize {
		return fmt.Errorf("max_size is %d bytes, but has to be at least %s", q.MaxSize, humanize.IBytes(leastMaxSize))
	}
	return nil
}

// Key implements [delivery.Opener]: the file's absolute path.
func (q *Queue) Key() string { return q.path }

// Resolved implements [delivery.Resolver].
func (q *Queue) Resolved() any { return &Queue{Path: q.path, MaxSize: q.MaxSize} }

// Exists implements [delivery.Exister].
func (q *Queue) Exists() bool {
	_, err := os.Stat(q.path)
	_, journal := os.Stat(resolve(q.path) + journalSuffix)
	return err == nil || journal == nil
}

// Open implements [delivery.Opener].
func (q *Queue) Open(logger *zap.Logger) (delivery.Queue, error) {
	open, err := open(q.path, q.maxSize(), logger)
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
//		path     <file>
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
				return d.Err("path takes one value, the queue's file, as in: path /var/lib/caddy/queue.db")
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
	_ caddy.Provisioner     = (*Queue)(nil)
	_ caddy.Validator       = (*Queue)(nil)
	_ caddyfile.Unmarshaler = (*Queue)(nil)
	_ delivery.Opener       = (*Queue)(nil)
	_ delivery.Exister      = (*Queue)(nil)
	_ delivery.Resolver     = (*Queue)(nil)
)
