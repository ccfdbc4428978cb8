//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

// measureConsole compares how many tagged pages visitors get while somebody
// watches in the console, and while nobody does.
func measureConsole() error {
	site, stop, err := startSite(0)
	if err != nil {
		return err
	}
	defer stop()
	var parties []*party
	for _, name := range []string{"unwatched", "watched"} {
		t, err := startTracker(0)
		if err != nil {
			return err
		}
		defer t.stop()
		p := &party{name: name, near: t, viewer: name == "watched"}
		if p.caddy, err = startCaddy(site, "", directive(t, 0)); err != nil {
			return err
		}
		defer p.stop()
		p.pause()
		parties = append(parties, p)
	}
	for i := range *rounds + 1 {
		order := slices.Clone(parties)
		if i%2 == 0 { // so that none always comes after the other
			slices.Reverse(order)
		}
		for _, p := range order {
			if err := p.turn(*connections, i > 0, i == *rounds); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	unwatched, watched := parties[0], parties[1]
	fmt.Printf("\nConsole: %d visitors at once (%s), %d rounds of %s in turns, tracker near\n", *connections, generator(), *rounds, *round)
	fmt.Printf("  watched to unwatched: %s pages/s, target >= 0.95; CPU a page %s; p99 %s\n",
		median(watched.ratios(unwatched)), median(ratio(watched.cpu, unwatched.cpu)), median(ratio(watched.p99, unwatched.p99)))
	fmt.Printf("  unwatched %.0f pages/s; of %d hits the viewer was shown %d, and told that %d were left out\n",
		spreadOf(unwatched.throughput).median, watched.opened, watched.rows, watched.left)
	return nil
}

// watch watches all hits, as the console's page does. The returned function ends
// it, and tells how many there were and were left out.
func (c *caddy) watch() (stop func() (rows, left int), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.admin+"/tagged_urls/console/live", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	var left int
	seen := make(map[string]bool)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer resp.Body.Close()
		for r := bufio.NewReader(resp.Body); ; {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			var news struct {
				Rows []struct{ ID string }
				Left int
			}
			if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok && json.Unmarshal(data, &news) == nil {
				left += news.Left
				for _, row := range news.Rows {
					seen[row.ID] = true
				}
			}
		}
	}()
	return func() (int, int) {
		cancel()
		<-done
		return len(seen), left
	}, nil
}
