package natsqueue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// operator is somebody with all permissions.
func operator(t *testing.T, n *harness.NATS, options ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(n.URL, append(options, nats.Timeout(patient))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func info(t *testing.T, js jetstream.JetStream, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// A stream that somebody made is checked, and never harmed.
func TestStreamThatExists(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	js := operator(t, n)
	for name, test := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string // in the error; "" if it will do
	}{
		"as it should be":  {func(*jetstream.StreamConfig) {}, ""},
		"larger":           {func(c *jetstream.StreamConfig) { c.MaxBytes *= 2; c.MaxAge *= 2; c.Duplicates *= 2 }, ""},
		"unlimited":        {func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxAge = -1, 0 }, ""},
		"limits":           {func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy }, "retention is Limits, but has to be WorkQueue"},
		"memory":           {func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage is Memory, but has to be File"},
		"discard old":      {func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, "discard policy is DiscardOld"},
		"other subjects":   {func(c *jetstream.StreamConfig) { c.Subjects = []string{"x." + c.Name} }, "the subject tagged_urls."},
		"more subjects":    {func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "x."+c.Name) }, "other subjects"},
		"duplicate window": {func(c *jetstream.StreamConfig) { c.Duplicates = time.Second }, "duplicate window is 1s, but has to be at least 2m0s"},
		"small messages":   {func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }, "largest message is 1000 bytes"},
		"per subject":      {func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, "messages per subject"},
		"no deletes":       {func(c *jetstream.StreamConfig) { c.DenyDelete = true }, "can't be deleted"},
		"no ack": {func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false },
			"isn't acknowledged"},
		"async": {func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		}, "persist mode"},
	} {
		t.Run(name, func(t *testing.T) {
			s := settingsFor(n)
			config, _ := wanted(s)
			test.change(&config)
			if _, err := js.CreateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			before := info(t, js, s.stream)
			q, err := tryOpen(t, s, nil, logger(t), defaultAckWait)
			if err == nil {
				defer q.Close()
			}
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), s.stream)):
				t.Errorf("error %v, want %q", err, test.want)
			}
			if after := info(t, js, s.stream); after.MaxBytes != before.MaxBytes || after.MaxAge != before.MaxAge || after.Retention != before.Retention || !slices.Equal(after.Subjects, before.Subjects) {
				t.Errorf("the stream was changed from %+v to %+v", before, after)
			}
		})
	}
}

// The configuration may make a stream larger, and turns on what costs nothing.
func TestStreamGrows(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	js := operator(t, n)
	s := settingsFor(n)
	config, _ := wanted(s)
	config.AllowAtomicPublish, config.AllowDirect = false, false
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	q := mustOpen(t, s, nil)
	if after := info(t, js, s.stream); !after.AllowAtomicPublish || !after.AllowDirect || after.MaxBytes != defaultMaxBytes || after.MaxConsumers < 10_000 {
		t.Errorf("opened: %+v", after)
	}
	s.maxBytes, s.maxAge = 2*defaultMaxBytes, 2*defaultMaxAge
	(&Queue{settings: s}).Apply(q)
	harness.Eventually(t, "larger streams", func() bool {
		after, dead := info(t, js, s.stream), info(t, js, s.stream+"_dead")
		return after.MaxBytes == s.maxBytes && after.MaxAge == s.maxAge && dead.MaxBytes == s.maxBytes/deadShare && dead.MaxAge == maxDeadAge
	})
	s.maxBytes = leastMaxBytes
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, s, nil)
	if after := info(t, js, s.stream); after.MaxBytes != 2*defaultMaxBytes {
		t.Errorf("shrunk to %d", after.MaxBytes)
	}
}

// A stream that is gone is made again as it is configured now.
func TestStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	js := operator(t, n)
	s := settingsFor(n)
	q := mustOpenWith(t, s, nil, time.Second)
	s.maxBytes = 2 * defaultMaxBytes
	(&Queue{settings: s}).Apply(q)
	harness.Eventually(t, "a larger stream", func() bool { return info(t, js, s.stream).MaxBytes == s.maxBytes })
	if err := js.DeleteStream(t.Context(), s.stream); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := q.Put(ctx, entry("d", 0)); err != nil {
		t.Fatal(err)
	}
	if got := info(t, js, s.stream).MaxBytes; got != s.maxBytes {
		t.Errorf("made with %d bytes, want %d", got, s.maxBytes)
	}
}

// A stream must not forget what is still being tried.
func TestStreamForgets(t *testing.T) {
	t.Parallel()
	n := harness.StartNATS(t, authorization(user("all", nil), user("user", publishes("forgets", false))))
	js := operator(t, n, nats.UserInfo("all", "x"))
	const day = 24 * time.Hour
	s := settings{stream: "forgets", replicas: 1, keep: 7 * day}
	config, dead := wanted(s)
	config.MaxAge = day
	for _, c := range []jetstream.StreamConfig{config, dead} {
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user string) settings {
		s.connection.urls = strings.Replace(n.URL, "nats://", "nats://"+user+":x@", 1)
		return s
	}
	if q, err := tryOpen(t, as("user"), nil, logger(t), defaultAckWait); err == nil {
		q.Close()
		t.Error("used a stream that forgets too soon")
	} else if !strings.Contains(err.Error(), "--max-age 30d") {
		t.Errorf("error %v, want what to do", err)
	}
	mustOpen(t, as("all"), nil)
	if got := info(t, js, s.stream).MaxAge; got != 30*day {
		t.Errorf("max_age is %v, want 30 days", got)
	}
	s.stream, s.keep = "long", 60*day
	mustOpen(t, as("all"), nil)
	if got := info(t, js, s.stream).MaxAge; got != 67*day {
		t.Errorf("max_age is %v, want 67 days", got)
	}
}

// An account may allow fewer consumers than a stream has by default.
func TestFewConsumers(t *testing.T) {
	t.Parallel()
	n := harness.StartNATS(t, "accounts { T { jetstream { max_consumers: 100 }, users: [{ user: t, password: x }] } }\nno_auth_user: t")
	q := mustOpen(t, settingsFor(n), nil)
	put(t, q, "d", 0)
	take(t, q, "d", 1)
}

// What may get lost can be kept in memory.
func TestMemory(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	s.storage = jetstream.MemoryStorage
	q := mustOpen(t, s, nil)
	put(t, q, "d", 0)
	for _, stream := range []string{s.stream, s.stream + "_dead"} {
		if got := info(t, operator(t, n), stream).Storage; got != jetstream.MemoryStorage {
			t.Errorf("the storage of %s is %v", stream, got)
		}
	}
	s.storage = jetstream.FileStorage
	if q, err := tryOpen(t, s, nil, logger(t), defaultAckWait); err == nil || !strings.Contains(err.Error(), "storage is Memory, but has to be File") {
		t.Errorf("opened %v, %v", q, err)
	}
}

// What is in the way is said with what to do.
func TestCannotOpen(t *testing.T) {
	t.Parallel()
	lone := harness.SharedNATS(t)
	without := harness.StartNATS(t, "jetstream: false")
	small := harness.StartNATS(t, "max_payload: 1000")
	full := harness.StartNATS(t, `jetstream { store_dir: "$DIR", max_file_store: 1MiB }`)
	taken := harness.StartNATS(t, "")
	js := operator(t, taken)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"tagged_urls.>"}}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		node *harness.NATS
		set  func(*settings)
		want string
	}{
		"no cluster":        {lone, func(s *settings) { s.replicas = 3 }, "replicas 1"},
		"no JetStream":      {without, func(*settings) {}, "there's no JetStream"},
		"small payload":     {small, func(*settings) {}, "max_payload"},
		"no room":           {full, func(*settings) {}, "lower max_bytes"},
		"subjects taken":    {taken, func(*settings) {}, "another stream has taken"},
		"no credentials":    {lone, func(s *settings) { s.connection.credentials = "/nonexistent" }, "credentials: "},
		"no seed":           {lone, func(s *settings) { s.connection.nkey = "/nonexistent" }, "nkey: "},
		"no TLS":            {lone, func(s *settings) { s.connection.secure = true }, "secure connection not available"},
		"no authority file": {lone, func(s *settings) { s.connection.ca = "/nonexistent" }, "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			s := settingsFor(test.node)
			test.set(&s)
			q, err := tryOpen(t, s, nil, logger(t), defaultAckWait)
			if err == nil {
				q.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	for version, ok := range map[string]bool{"2.11.9": false, "2.9.0-beta": false, "1.4.1": false, "2.12.0": false, "2.12.1": true, "2.12": false, "2.12.1-RC.1": true, "2.13.0": true, "2.15.2": true, "3.0.0": true, "dev": true} {
		if err := checkVersion(version); (err == nil) != ok {
			t.Errorf("version %s: %v", version, err)
		}
	}
}

// publishes are the subjects to which a user needs to publish, as docs/fleet.md
// says.
func publishes(stream string, create bool) []string {
	dead, aliases, keys := stream+"_dead", stream+"_aliases", stream+"_keys"
	publish := []string{
		"tagged_urls." + stream + ".>",
		"$JS.ACK." + stream + ".>", "$JS.ACK.*.*." + stream + ".>",
		"$JS.API.STREAM.INFO." + stream, "$JS.API.STREAM.INFO." + dead, "$JS.API.STREAM.INFO." + aliases, "$JS.API.STREAM.INFO." + keys,
		"$JS.API.DIRECT.GET." + stream, "$JS.API.DIRECT.GET." + dead, "$JS.API.STREAM.MSG.GET." + keys,
		"$JS.API.STREAM.MSG.DELETE." + stream, "$JS.API.STREAM.MSG.DELETE." + dead, "$JS.API.STREAM.MSG.DELETE." + keys,
		"$JS.API.CONSUMER.INFO." + stream + ".*",
		"$JS.API.CONSUMER.CREATE." + stream + ".>",
		"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*",
	}
	if create {
		publish = append(publish, "$JS.API.STREAM.CREATE."+stream, "$JS.API.STREAM.CREATE."+dead, "$JS.API.STREAM.CREATE."+aliases, "$JS.API.STREAM.CREATE."+keys,
			"$JS.API.STREAM.UPDATE."+stream, "$JS.API.STREAM.UPDATE."+dead, "$JS.API.STREAM.UPDATE."+aliases, "$JS.API.STREAM.UPDATE."+keys)
	}
	return publish
}

// user is a user in a configuration, who has all permissions or those that
// publishing to some subjects needs.
func user(name string, publish []string) string {
	if publish == nil {
		return fmt.Sprintf("{ user: %s, password: x }", name)
	}
	return fmt.Sprintf(`{ user: %s, password: x, permissions: { publish: ["%s"], subscribe: "_INBOX.>" } }`, name, strings.Join(publish, `", "`))
}

func authorization(users ...string) (config string) {
	return "authorization { users: [" + strings.Join(users, ", ") + "] }"
}

// A user needs no more permissions than documented, also with the subjects for
// acknowledgements that are to come.
func TestPermissions(t *testing.T) {
	t.Parallel()
	for _, v2 := range []bool{false, true} {
		t.Run(fmt.Sprint("js_ack_fc_v2=", v2), func(t *testing.T) {
			t.Parallel()
			testPermissions(t, fmt.Sprintf("feature_flags { js_ack_fc_v2: %t }\n", v2))
		})
	}
}

func testPermissions(t *testing.T, flags string) {
	s := settings{stream: "limited", replicas: 1}
	n := harness.StartNATS(t, flags+authorization(user("creator", publishes(s.stream, true)), user("user", publishes(s.stream, false))))
	as := func(user string) settings {
		s.connection.urls = strings.Replace(n.URL, "nats://", "nats://"+user+":x@", 1)
		return s
	}
	if q, err := open(as("user"), nil, logger(t)); err == nil {
		q.Close()
		t.Fatal("created a stream without permission")
	} else if !strings.Contains(err.Error(), `"$JS.API.STREAM.CREATE.limited"`) {
		t.Errorf("error %v, want one that names what is missing", err)
	}
	if err := mustOpen(t, as("creator"), nil).Close(); err != nil {
		t.Fatal(err)
	}
	q := mustOpen(t, as("user"), nil)
	put(t, q, "d", 0, 1, 2)
	if err := q.Put(t.Context(), entry("d", 3), entry("e", 3)); err != nil {
		t.Fatal(err)
	}
	items := take(t, q, "d", 4)
	settle(t, q, done, items[0])
	settle(t, q, delivery.Settlement{Outcome: delivery.Release}, items[1])
	settle(t, q, delivery.Settlement{Outcome: delivery.Dead}, items[2])
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items[3])
	if err := q.RetryNow(""); err != nil {
		t.Error(err)
	}
	for i := range 2 {
		if n, err := q.Requeue(delivery.DeadFilter{}); n != 1 || err != nil {
			t.Errorf("requeued %d: %v", n, err)
		}
		settle(t, q, delivery.Settlement{Outcome: delivery.Dead}, take(t, q, "d", 3)...)
		if n, err := q.DeleteDead(delivery.DeadFilter{}); n != 3 || err != nil {
			t.Errorf("deleted %d: %v", n, err)
		}
		put(t, q, "d", 10*i+10, 10*i+11, 10*i+12)
		settle(t, q, delivery.Settlement{Outcome: delivery.Dead}, take(t, q, "d", 1)...)
	}
	if stats, err := q.Stats(); err != nil || stats.Destinations["e"].Waiting != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TLS with certificates on both sides, and a user who is known by a key.
func TestSecure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := selfSigned(t, dir)
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := user.PublicKey()
	seed, _ := user.Seed()
	nkey := filepath.Join(dir, "user.nk")
	if err := os.WriteFile(nkey, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	n := harness.StartNATS(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, timeout: 5 }\n", files[0], files[1], files[0])+
		authorization(fmt.Sprintf("{ nkey: %s }", public)))
	s := settingsFor(n)
	s.connection.secure, s.connection.nkey = true, nkey
	s.connection.ca, s.connection.cert, s.connection.key = files[0], files[0], files[1]
	q := mustOpen(t, s, nil)
	put(t, q, "d", 1)
	s.connection.nkey = ""
	if q, err := open(s, nil, logger(t)); err == nil {
		q.Close()
		t.Error("connected without the key")
	}
	s.connection.nkey, s.connection.cert = nkey, ""
	if q, err := open(s, nil, logger(t)); err == nil {
		q.Close()
		t.Error("connected without a certificate")
	}
}

// selfSigned makes a certificate for loopback, and returns its files.
func selfSigned(t *testing.T, dir string) [2]string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := [2]string{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for i, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(files[i], pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}
