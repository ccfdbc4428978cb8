package tagging_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// A tagged link says what is recorded, and under which name. The site behind
// gets the rest.
func Example() {
	const query = "page=2&kme=Clicked+Link&kmi=john.smith&km_Link+Location=top"
	tags := tagging.Parse(query, nil)
	fmt.Println(tags.Event, tags.Identity, tags.Properties)
	stripped, _ := tagging.StripIdentity.Query(query)
	fmt.Println(stripped)
	// Output:
	// Clicked Link john.smith [{Link Location top}]
	// page=2&kme=Clicked+Link&km_Link+Location=top
}

// A browser that was here before has a history under an anonymous identity. The
// first link with a name connects the two, once.
func ExampleResolve() {
	keys := tagging.NewKeys([]byte("a secret of the site"))
	scope := tagging.Scope{Name: "example.com"}
	visit := func(name string, cookie tagging.Cookie) tagging.Person {
		header := http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
		return tagging.Resolve(tagging.Browser{
			Navigation: tagging.Navigation(header), Name: name, Recorded: true, Cookie: cookie,
		}, nil)
	}
	first := visit("", tagging.Cookie{})
	set := first.Cookie
	set.Made, set.Memory = time.Now(), 1 // the queue that remembers aliases
	value := keys.Seal(set, scope)

	second := visit("john.smith", keys.Open(value, scope))
	fmt.Println(first.Named, second.ID, second.Alias.To)
	fmt.Println(second.Alias.From.String() == first.ID)
	// Output:
	// false john.smith john.smith
	// true
}
