// Package natsqueue is the queue for fleets: it keeps records in a NATS
// JetStream stream that any number of Caddy nodes share. What one node has
// recorded survives that node, and is delivered by whichever is free.
//
// The module isn't part of the default build: import this package beside
// caddymodule, as cmd/caddy-nats does.
package natsqueue

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/dustin/go-humanize"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	defaultStream   = "tagged_urls"
	defaultReplicas = 3
	defaultMaxBytes = 1 << 30
	defaultMaxAge   = 30 * 24 * time.Hour
	leastMaxBytes   = 1 << 20
	leastMaxAge     = time.Hour
	maxReplicas     = 5 // JetStream's own limit
)

func init() {
	caddy.RegisterModule(new(Queue))
}

// Queue keeps records in a stream of NATS JetStream until they are delivered.
// All Caddys with the same stream share its records: any of them delivers what
// any of them recorded.
//
// A hit is on `replicas` servers before the visitor's response begins. Whether
// it then survives that all of them lose power at once is up to their
// `sync_interval`: only `always` makes sure of it.
//
// It needs nats-server 2.12.1 or newer. The stream is made if it isn't there,
// and three more: `<stream>_dead` for dead letters, `<stream>_aliases` to
// remember which anonymous identities were aliased; without that one no alias
// is sent; and `<stream>_keys` with the keys of what records say, which is
// sealed before it is sent; without that one it isn't. What exists is checked, and made larger if the configuration says
// so, but never smaller.
type Queue struct {
	// The servers, such as `nats://n1.example.com:4222`; one that answers is
	// enough to find the others of its cluster. The schemes are nats, tls, ws
	// and wss. Placeholders are resolved at load.
	URLs []string `json:"urls"`

	// The stream's name: letters, digits, `_` and `-`. It identifies the
	// queue: take another one when you move to another cluster, so that
	// records are fetched from the old one. Default: `tagged_urls`.
	Stream string `json:"stream,omitempty"`

	// On how many servers each record is, from 1 to 5, before the visitor gets
	// an answer. Default: 3, or whatever a stream that exists has.
	Replicas int `json:"replicas,omitempty"`

	// Where the servers keep the stream: in `file` or `memory`. Memory is for
	// trying out, and for hits that may get lost: nothing survives that most
	// of the servers restart at once. Default: `file`.
	Storage string `json:"storage,omitempty"`

	// How many bytes the stream may take up, on each server that has a copy.
	// Dead letters may take up an eighth of that beside it, and what is
	// remembered of aliases a sixteenth, which is enough for some 400,000 of
	// them in 64 MiB. Default: 1 GiB, or whatever a stream that exists has.
	MaxBytes int64 `json:"max_bytes,omitempty"`

	// After which time the stream forgets what nobody delivered, such as
	// records of a tracker that was removed; longer than the app's `max_age`.
	// Default: `30d`, or a week longer than the app's if that is more, or
	// whatever a stream that exists has.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How many records per second the whole fleet gives to one tracker at
	// most; what comes faster waits. While it is set, a tracker's records are
	// handed to one node at a time, which JetStream chooses, and another takes
	// over when that one goes, or asks for no more because the tracker hangs.
	// What the former has under way it still delivers, so that for a while
	// there may be more at once than `concurrency`, but never more per second.
	// Default: no limit, and all nodes deliver.
	Rate int `json:"rate,omitempty"`

	// A file with a user's JWT and key, as `nsc` makes it. Placeholders are
	// resolved at load.
	Credentials string `json:"credentials,omitempty"`

	// A file with a user's NKey seed, instead of credentials. Placeholders are
	// resolved at load.
	NKey string `json:"nkey,omitempty"`

	// Makes the connection use TLS, also where the URL doesn't say so.
	TLS *TLS `json:"tls,omitempty"`

	// The queue that takes hits on this node while the cluster can't; they are
	// handed over when it can again. Default: `{"queue": "disk"}`, in a file
	// `tagged_urls/nats-<stream>.db` in Caddy's data directory.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=tagged_urls.queues inline_key=queue"`

	// Do without a fallback: what the cluster can't take is dropped.
	NoFallback bool `json:"no_fallback,omitempty"`

	fallback delivery.Opener // nil: off
	settings settings
}

// TLS says how to talk TLS to the servers.
type TLS struct {
	// A file with the certificates of the authorities to trust, in PEM.
	// Default: the system's.
	CA string `json:"ca,omitempty"`

	// Files with the certificate and key that this client shows, in PEM.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
}

// settings is the configuration with its placeholders resolved. It is
// comparable where it is about the connection.
type settings struct {
	connection connection
	stream     string
	replicas   int // 0: the default, or what is there
	storage    jetstream.StorageType
	maxBytes   int64
	maxAge     time.Duration
	rate       int
	keep       time.Duration // how long delivery is tried; 0: unknown
}

// connection is whom to connect to, and how.
type connection struct {
	urls              string // separated by commas, as NATS takes them
	credentials, nkey string
	secure            bool
	ca, cert, key     string
}

// CaddyModule returns the Caddy module information.
func (*Queue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.queues.nats",
		New: func() caddy.Module { return new(Queue) },
	}
}

// Provision implements [caddy.Provisioner]. It connects to nothing.
func (q *Queue) Provision(ctx caddy.Context) error {
	if err := q.resolve(); err != nil {
		return err
	}
	if q.NoFallback {
		return nil
	}
	if q.FallbackRaw == nil {
		q.FallbackRaw = caddyconfig.JSON(map[string]string{
			"queue": "disk",
			"path":  filepath.Join(caddy.AppDataDir(), "tagged_urls", "nats-"+q.settings.stream+".db"),
		}, nil)
	}
	module, err := ctx.LoadModule(q, "FallbackRaw")
	if err != nil {
		return fmt.Errorf("loading the fallback queue: %w", err)
	}
	opener, ok := module.(delivery.Opener)
	if _, nested := module.(*Queue); !ok || nested {
		return errors.New("the fallback has to be a queue of this node's own, such as disk")
	}
	q.fallback = opener
	return nil
}

// resolve sets q.settings.
func (q *Queue) resolve() (err error) {
	replacer := caddy.NewReplacer()
	resolved := func(option, value string) string {
		if value == "" || err != nil {
			return ""
		}
		var s string
		if s, err = replacer.ReplaceOrErr(value, true, true); err != nil {
			err = fmt.Errorf("%s: %w", option, err)
		}
		return s
	}
	s := settings{
		stream:   resolved("stream", q.Stream),
		replicas: q.Replicas, maxBytes: q.MaxBytes, maxAge: time.Duration(q.MaxAge), rate: q.Rate,
		connection: connection{
			credentials: resolved("credentials", q.Credentials),
			nkey:        resolved("nkey", q.NKey),
		},
	}
	if q.Storage == "memory" {
		s.storage = jetstream.MemoryStorage
	}
	if s.stream == "" {
		s.stream = defaultStream
	}
	var urls []string
	for _, u := range q.URLs {
		// One placeholder may hold several.
		for u := range strings.SplitSeq(resolved("urls", u), ",") {
			urls = append(urls, strings.TrimSpace(u))
		}
	}
	s.connection.urls = strings.Join(urls, ",")
	if t := q.TLS; t != nil {
		s.connection.secure = true
		s.connection.ca = resolved("tls ca", t.CA)
		s.connection.cert = resolved("tls cert", t.Cert)
		s.connection.key = resolved("tls key", t.Key)
	}
	q.settings = s
	return err
}

// Validate implements [caddy.Validator]. It connects to nothing.
func (q *Queue) Validate() error {
	s := q.settings
	if len(q.URLs) == 0 {
		return errors.New("urls is missing: name at least one server, such as nats://n1.example.com:4222")
	}
	for u := range strings.SplitSeq(s.connection.urls, ",") {
		if err := checkURL(u); err != nil {
			return err
		}
	}
	return errors.Join(checkStream(s.stream), checkReplicas(q.Replicas), checkStorage(q.Storage), checkMaxBytes(q.MaxBytes), checkMaxAge(q.MaxAge), checkRate(q.Rate),
		checkFiles(q.Credentials, q.NKey, q.TLS))
}

var schemes = []string{"nats", "tls", "ws", "wss"}

func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		// Not the URL itself, which may hold a password.
		return fmt.Errorf("urls: a server's URL is wrong or empty; it looks like nats://n1.example.com:4222, with one of the schemes %s", strings.Join(schemes, ", "))
	}
	return nil
}

var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func checkStream(name string) error {
	if !streamName.MatchString(name) {
		return fmt.Errorf("stream: %q is no name of 1 to 64 letters, digits, _ and -", name)
	}
	return nil
}

func checkReplicas(n int) error {
	if n < 0 || n > maxReplicas {
		return fmt.Errorf("replicas: %d isn't between 1 and %d", n, maxReplicas)
	}
	return nil
}

func checkStorage(s string) error {
	if s != "" && s != "file" && s != "memory" {
		return fmt.Errorf("storage: %q is neither file nor memory", s)
	}
	return nil
}

func checkMaxBytes(n int64) error {
	if n != 0 && n < leastMaxBytes {
		return fmt.Errorf("max_bytes: %d bytes are too few, it has to be at least %s", n, humanize.IBytes(leastMaxBytes))
	}
	return nil
}

func checkMaxAge(d caddy.Duration) error {
	if d != 0 && time.Duration(d) < leastMaxAge {
		return fmt.Errorf("max_age: %v is too short, it has to be at least %v, and longer than the app's max_age", time.Duration(d), leastMaxAge)
	}
	return nil
}

func checkRate(n int) error {
	if n < 0 {
		return fmt.Errorf("rate: %d isn't a number of records per second", n)
	}
	return nil
}

func checkFiles(credentials, nkey string, t *TLS) error {
	if credentials != "" && nkey != "" {
		return errors.New("credentials and nkey are two ways to the same end: give one of them")
	}
	if t != nil && (t.Cert == "") != (t.Key == "") {
		return errors.New("tls: cert and key belong together")
	}
	return nil
}

// Key implements [delivery.Opener]: the stream's name. The servers aren't part
// of it: the same stream reached by another way is the same queue, and must
// never be moved into itself.
func (q *Queue) Key() string { return "nats:" + q.settings.stream }

// Keep implements [delivery.Retainer].
func (q *Queue) Keep(maxAge time.Duration) error {
	if own := time.Duration(q.MaxAge); own != 0 && own <= maxAge {
		return fmt.Errorf("max_age of queue nats is %v, so the stream would forget records while they are still being tried for the app's max_age of %v: make it longer, or leave it out", own, maxAge)
	}
	q.settings.keep = maxAge
	return nil
}

// Open implements [delivery.Opener].
func (q *Queue) Open(logger *zap.Logger) (delivery.Queue, error) {
	open, err := open(q.settings, q.fallback, logger)
	if err != nil {
		return nil, err
	}
	return open, nil
}

// Apply implements [delivery.Opener]: it makes the stream larger if need be,
// and connects anew if it is to be reached by another way.
func (q *Queue) Apply(open delivery.Queue) {
	if open, ok := open.(*openQueue); ok {
		open.apply(q.settings, q.fallback)
	}
}

// Interface guards
var (
	_ caddy.Provisioner = (*Queue)(nil)
	_ caddy.Validator   = (*Queue)(nil)
	_ delivery.Opener   = (*Queue)(nil)
	_ delivery.Local    = (*Queue)(nil)

	_ delivery.Retainer = (*Queue)(nil)
)
