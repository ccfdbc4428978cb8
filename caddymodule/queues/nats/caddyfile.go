package natsqueue

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// UnmarshalCaddyfile sets up the queue. Syntax:
//
//	queue nats [<url...>] {
//		urls        <url...>
//		stream      <name>
//		replicas    <n>
//		storage     file|memory
//		max_bytes   <size>
//		max_age     <duration>
//		rate        <records per second>
//		credentials <file>
//		nkey        <file>
//		tls {
//			ca   <file>
//			cert <file>
//			key  <file>
//		}
//		fallback    off | <module> [<args...>] { … }
//	}
func (q *Queue) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if err := q.unmarshalURLs(d); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] && option != "urls" {
			return d.Errf("%s stands here a second time", option)
		}
		seen[option] = true
		if err := q.unmarshalOption(d); err != nil {
			return err
		}
	}
	if len(q.URLs) == 0 {
		return d.Err("queue nats needs at least one server: queue nats { urls nats://n1.example.com:4222 }")
	}
	if err := checkFiles(q.Credentials, q.NKey, q.TLS); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (q *Queue) unmarshalURLs(d *caddyfile.Dispenser) error {
	for d.NextArg() {
		if !hasPlaceholder(d.Val()) {
			for u := range strings.SplitSeq(d.Val(), ",") {
				if err := checkURL(u); err != nil {
					return d.WrapErr(err)
				}
			}
		}
		q.URLs = append(q.URLs, d.Val())
	}
	return nil
}

func (q *Queue) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	switch option := d.Val(); option {
	case "urls":
		before := len(q.URLs)
		if err := q.unmarshalURLs(d); err != nil {
			return err
		}
		if len(q.URLs) == before {
			return d.Err("urls takes the servers' URLs, such as: urls nats://n1.example.com:4222 nats://n2.example.com:4222")
		}
	case "stream":
		if !d.AllArgs(&q.Stream) {
			return d.Err("stream takes one name, such as: stream tagged_urls")
		}
		if !hasPlaceholder(q.Stream) {
			err = checkStream(q.Stream)
		}
	case "replicas":
		var word string
		if d.AllArgs(&word) {
			q.Replicas, err = strconv.Atoi(word)
		}
		if word == "" || err != nil || q.Replicas < 1 || q.Replicas > maxReplicas {
			return d.Errf("replicas takes one number from 1 to %d, such as: replicas 3", maxReplicas)
		}
	case "storage":
		if !d.AllArgs(&q.Storage) || q.Storage == "" || checkStorage(q.Storage) != nil {
			return d.Err("storage takes file, or memory if hits may get lost when servers restart")
		}
	case "max_bytes":
		var word string
		if !d.AllArgs(&word) {
			return d.Err("max_bytes takes one size, such as: max_bytes 50GiB")
		}
		size, err := humanize.ParseBytes(word)
		if err != nil || size < leastMaxBytes || size > 1<<62 {
			return d.Errf("max_bytes %s isn't a size of at least %s, such as 512MiB or 50GiB", word, humanize.IBytes(leastMaxBytes))
		}
		q.MaxBytes = int64(size)
	case "max_age":
		var word string
		if !d.AllArgs(&word) {
			return d.Err("max_age takes one duration, such as: max_age 30d")
		}
		age, err := caddy.ParseDuration(word)
		if err != nil || age < leastMaxAge {
			return d.Errf("max_age %s isn't a duration of at least %v, such as 30d", word, leastMaxAge)
		}
		q.MaxAge = caddy.Duration(age)
	case "rate":
		var word string
		if d.AllArgs(&word) {
			q.Rate, err = strconv.Atoi(word)
		}
		if word == "" || err != nil || q.Rate < 1 {
			return d.Err("rate takes one number of records per second, such as: rate 100")
		}
	case "credentials":
		return file(d, &q.Credentials)
	case "nkey":
		return file(d, &q.NKey)
	case "tls":
		if d.NextArg() {
			return d.Errf("tls takes no argument, but has %q: its options go into a block, as in { ca <file> }", d.Val())
		}
		q.TLS = new(TLS)
		return q.TLS.unmarshal(d)
	case "fallback":
		return q.unmarshalFallback(d)
	default:
		return d.Errf("queue nats has no option %q: it has urls, stream, replicas, storage, max_bytes, max_age, rate, credentials, nkey, tls, fallback", option)
	}
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (t *TLS) unmarshal(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		to := map[string]*string{"ca": &t.CA, "cert": &t.Cert, "key": &t.Key}[d.Val()]
		if to == nil {
			return d.Errf("tls has no option %q: it has ca, cert, key", d.Val())
		}
		if err := file(d, to); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) unmarshalFallback(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("fallback takes off, or a queue of this node's own, such as: fallback disk { path <file> }")
	}
	name := d.Val()
	if name == "off" {
		q.NoFallback = true
		if d.NextArg() {
			return d.Errf("fallback off takes no argument, but has %q", d.Val())
		}
		return nil
	}
	const namespace = "tagged_urls.queues"
	var known []string
	for _, module := range caddy.GetModules(namespace) {
		if module.ID != q.CaddyModule().ID {
			known = append(known, module.ID.Name())
		}
	}
	if !slices.Contains(known, name) {
		return d.Errf("%q can't be the fallback: there are %s, or off", name, strings.Join(known, ", "))
	}
	module, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return err
	}
	q.FallbackRaw = caddyconfig.JSONModuleObject(module, "queue", name, nil)
	return nil
}

// file reads an option that is a file's path.
func file(d *caddyfile.Dispenser, to *string) error {
	option := d.Val()
	if !d.AllArgs(to) || *to == "" {
		return d.Errf("%s takes one file", option)
	}
	return nil
}

// hasPlaceholder reports whether a value is only known at load.
func hasPlaceholder(s string) bool { return strings.Contains(s, "{") }

// Interface guard
var _ caddyfile.Unmarshaler = (*Queue)(nil)
