// Package tagging says what a tagged URL means.
package tagging

import (
	"io"
	"net/http"
	"time"
)

type Property struct{ Name, Value string }
type Reason string

func (r Reason) Explain() string { return string(r) }

type Drop struct {
	Parameter string
	Reason    Reason
}
type Tags struct {
	Event, Identity string
	Properties      []Property
	Dropped         []Drop
	DroppedMore     int
}

func HasTags(rawQuery string) bool             { return false }
func Parse(rawQuery string, rules *Rules) Tags { return Tags{} }
func (t *Tags) Empty() bool                    { return t.Event == "" && t.Identity == "" && len(t.Properties) == 0 }

type EmailPolicy uint8

const (
	EmailAllow EmailPolicy = iota
	EmailHash
	EmailDrop
)

type RulesOptions struct {
	RejectWords   []string
	NoRejectWords bool
	Email         EmailPolicy
	EmailKey      []byte
}
type Rules struct{ o RulesOptions }

func NewRules(o RulesOptions) *Rules                                 { return &Rules{o} }
func (r *Rules) Accept(identity string) (name string, reason Reason) { return identity, "" }

type Strip uint8

const (
	StripNone Strip = iota
	StripIdentity
	StripAll
)

func (s Strip) Query(rawQuery string) (string, bool)     { return rawQuery, false }
func (s Strip) URL(u string) (string, bool)              { return u, false }
func Redact(uri string) string                           { return uri }
func RedirectTarget(escapedPath, rawQuery string) string { return "/" }
func CleanLocation(location, host string) (string, bool) { return location, false }
func Navigation(h http.Header) bool                      { return false }
func Prefetch(h http.Header) bool                        { return false }
func ScriptFetch(h http.Header) bool                     { return false }
func Unrecordable(method string, h http.Header) Reason   { return "" }

type Claim [16]byte
type Cookie struct {
	Anonymous string
	Claim     Claim
}
type Keys struct{ seal, claim, destination []byte }

func NewKeys(secret []byte) *Keys                       { return &Keys{} }
func (k *Keys) Seal(c Cookie, scope string) string      { return "" }
func (k *Keys) Open(value, scope string) (Cookie, bool) { return Cookie{}, false }
func (k *Keys) Destination(key string) string           { return "" }

type Browser struct {
	Navigation       bool
	Name             string
	Cookie           Cookie
	HasCookie        bool
	LibraryAnonymous string
	LibraryName      string
	LibraryNamed     bool
	NoAlias          bool
}
type Alias struct{ From, To string }
type Person struct {
	ID        string
	Aliases   []Alias
	Cookie    Cookie
	SetCookie bool
}

func (k *Keys) Resolve(b Browser, claims *Claims, random io.Reader) (Person, error) {
	return Person{}, nil
}

type Claims struct{}

func NewClaims(size int) *Claims      { return &Claims{} }
func (c *Claims) Forget(p Person)     {}
func LibraryCookie(raw string) string { return raw }

type OnceKey [16]byte
type Once struct{}

func NewOnce(size int) *Once                                               { return &Once{} }
func (o *Once) Seen(key OnceKey, now time.Time, window time.Duration) bool { return false }
func (o *Once) Forget(key OnceKey)                                         {}
func NewOnceKey(site, person, event string, properties []Property) OnceKey { return OnceKey{} }

type Daily struct{}

func (d *Daily) Identity(site, clientIP, userAgent string, now time.Time) string { return "" }
