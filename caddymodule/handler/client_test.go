package handler

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestClientOf(t *testing.T) {
	of := func(ip string) uint64 {
		r := httptest.NewRequest("GET", "/", nil)
		return clientOf(r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: ip})))
	}
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"fe80::1%eth0", "fe80::1", true},
	} {
		if of(test.a) == 0 || (of(test.a) == of(test.b)) != test.same {
			t.Errorf("%s and %s are the same: %v, want %v", test.a, test.b, !test.same, test.same)
		}
	}
	if of("") != 0 || of("unix") != 0 {
		t.Error("who has no address is told from others")
	}
}
