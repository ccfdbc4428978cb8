package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// source is the Caddyfile that a configuration comes from, to tell lines by. The
// adapted configuration doesn't know them.
type source []caddyfile.ServerBlock

// parseSource parses a Caddyfile. What can't be parsed has no lines: adapting it
// has said why.
func parseSource(file string, text []byte) source {
	if len(text) == 0 {
		return nil
	}
	blocks, err := caddyfile.Parse(file, text)
	if err != nil {
		return nil
	}
	return blocks
}

// global is where the first of some words is in a global option, else where that
// begins; or "" if it isn't there.
func (s source) global(option string, words ...string) string {
	for _, block := range s {
		if len(block.Keys) > 0 {
			continue
		}
		for _, segment := range block.Segments {
			if segment.Directive() == option {
				return find([]caddyfile.Segment{segment}, append(words, option))
			}
		}
	}
	return ""
}

// site is where the first of some words is in a site's block, else where the
// block begins; or "" if there is none.
func (s source) site(of *site, listens []string, words ...string) string {
	for _, block := range s {
		for _, key := range block.Keys {
			address, err := httpcaddyfile.ParseAddress(strings.TrimSuffix(key.Text, ","))
			if err != nil || block.IsNamedRoute {
				continue
			}
			if len(of.hosts) > 0 && !slices.ContainsFunc(of.hosts, func(host string) bool { return sameHost(host, address.Host) }) {
				continue
			}
			if len(of.hosts) == 0 && address.Host != "" {
				continue
			}
			if !listening(listens, address) {
				continue
			}
			if place := find(block.Segments, words); place != "" {
				return place
			}
			return at(key)
		}
	}
	return ""
}

// listening reports whether a server may serve an address: of those without a
// host, by the port.
func listening(listens []string, address httpcaddyfile.Address) bool {
	port := address.Port
	if port == "" || port == "0" {
		return true
	}
	return slices.ContainsFunc(listens, func(listen string) bool { return strings.HasSuffix(listen, ":"+port) })
}

// find is where the first of some words is.
func find(segments []caddyfile.Segment, words []string) string {
	for _, word := range words {
		for _, segment := range segments {
			for _, token := range segment {
				if token.Text == word {
					return at(token)
				}
			}
		}
	}
	return ""
}

func at(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", filepath.Base(t.File), t.Line) }
