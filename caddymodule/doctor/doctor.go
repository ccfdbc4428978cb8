// Package doctor looks at a configuration for what goes wrong in practice, and
// says what to do. It opens no queue, and changes nothing.
package doctor

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
)

// Severity says how bad a finding is.
type Severity string

// The severities. An Error keeps hits from being recorded, or identities
// from being kept back; a Warning may.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	OK      Severity = "ok"
)

var severities = []Severity{Error, Warning, OK}

// Finding is the outcome of a check.
type Finding struct {
	Severity Severity `json:"severity"`
	// Check is the check's name.
	Check string `json:"check"`
	// Where is a place in the Caddyfile (file:line), else a site, a server or a
	// tracker. It may be empty.
	Where string `json:"where,omitempty"`
	// What is the case.
	What string `json:"what"`
	// Do says what to do about it; empty if nothing is to be done.
	Do string `json:"do,omitempty"`
}

// The checks, in the order of their findings.
const (
	checkDirective = "directive"
	checkOrder     = "order"
	checkKey       = "key"
	checkLogs      = "logs"
	checkQueue     = "queue"
	checkStorage   = "storage"
	checkProxies   = "trusted_proxies"
	checkHeaders   = "max_header_size"
	checkTracker   = "tracker"
)

var checks = []string{checkDirective, checkOrder, checkKey, checkLogs, checkQueue, checkStorage, checkProxies, checkHeaders, checkTracker}

// Options is what a configuration is looked at with.
type Options struct {
	// File and Caddyfile are its source, to tell lines by; empty if it is
	// Caddy's JSON.
	File      string
	Caddyfile []byte
	// Running is the status of the Caddy that runs with it; nil if none
	// answers.
	Running *admin.Status
	// Online asks trackers whether they can be reached. Nothing is recorded.
	Online bool
	// Client asks them. Default: one that waits for ten seconds.
	Client *http.Client
	// Now is the time. Default: [time.Now].
	Now func() time.Time
	// Disk describes the disk that holds a directory. Default: the system's.
	Disk func(dir string) (Disk, error)
}

// Check looks at a configuration in Caddy's JSON. There is at least one finding
// for each check that was made. An error means that it can't be looked at.
func Check(config []byte, o Options) ([]Finding, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Disk == nil {
		o.Disk = diskOf
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: onlineTimeout}
	}
	e, err := newExamination(config, o)
	if err != nil {
		return nil, err
	}
	defer e.cancel()
	if e.loadSites(); len(e.sites) > 0 {
		e.order()
		e.keys()
		e.logs()
		e.queue()
		e.storage()
		e.proxies()
		e.headers()
		if o.Online {
			e.trackers()
		}
	}
	slices.SortStableFunc(e.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(checks, a.Check), slices.Index(checks, b.Check)),
			cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity)))
	})
	return e.findings, nil
}

// found adds a finding.
func (e *examination) found(severity Severity, check, where, what, do string) {
	f := Finding{severity, check, where, what, do}
	if !slices.Contains(e.findings, f) { // one for each of several sites
		e.findings = append(e.findings, f)
	}
}

// fine says that a check has found nothing, if so.
func (e *examination) fine(check, what string) {
	if !slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Check == check }) {
		e.found(OK, check, "", what, "")
	}
}

// Count counts the findings of a severity.
func Count(findings []Finding, severity Severity) (n int) {
	for _, f := range findings {
		if f.Severity == severity {
			n++
		}
	}
	return n
}

// Text returns findings as people read them.
func Text(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-8s %s: ", f.Severity, f.Check)
		if f.Where != "" {
			b.WriteString(f.Where + ": ")
		}
		b.WriteString(f.What + "\n")
		if f.Do != "" {
			b.WriteString("         " + f.Do + "\n")
		}
	}
	return b.String()
}
