package natsqueue

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func BenchmarkPut(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		for _, n := range []int{1, 2, 3} {
			b.Run(fmt.Sprint(replicas, n), func(b *testing.B) {
				s := startCluster(b)
				st := settingsFor(s...)
				st.replicas = replicas
				q := mustOpen(b, st, nil)
				i := 0
				for b.Loop() {
					i++
					var e []delivery.Entry
					for k := range n {
						r := &delivery.Record{Kind: delivery.Event, Time: time.Now(), Site: "x", Person: "p", Name: "n", Properties: []tagging.Property{{Name: "a", Value: "b"}}}
						binary.BigEndian.PutUint64(r.ID[:], uint64(i))
						e = append(e, delivery.Entry{Destination: fmt.Sprint("d", k), Record: r})
					}
					if err := q.Put(b.Context(), e...); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
