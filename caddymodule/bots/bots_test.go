package bots

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

// userAgents reads a file of User-Agents, one a line, with # headings.
func userAgents(tb testing.TB, file string) []string {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()

	var all []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if line := lines.Text(); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	if len(all) < 60 {
		tb.Fatalf("%s has %d User-Agents: too few to say anything", file, len(all))
	}
	return all
}

func TestPeople(t *testing.T) {
	for _, ua := range userAgents(t, "testdata/people.txt") {
		if Is(ua) {
			t.Errorf("taken for a program: %s", ua)
		}
	}
}

func TestPrograms(t *testing.T) {
	for _, ua := range userAgents(t, "testdata/programs.txt") {
		if !Is(ua) {
			t.Errorf("taken for a person: %s", ua)
		}
	}
}

func TestCaseAndSpaceDoNotMatter(t *testing.T) {
	for _, ua := range userAgents(t, "testdata/people.txt") {
		if Is(" " + strings.ToUpper(ua) + "\t") {
			t.Errorf("taken for a program in upper case: %s", ua)
		}
	}
	for _, ua := range userAgents(t, "testdata/programs.txt") {
		if !Is(" " + strings.ToUpper(ua) + "\t") {
			t.Errorf("taken for a person in upper case: %s", ua)
		}
	}
}

func TestEmpty(t *testing.T) {
	for _, ua := range []string{"", " ", "\t  \t"} {
		if !Is(ua) {
			t.Errorf("%q isn't a browser's", ua)
		}
	}
}

// A word that gives a program away says nothing as the name of a phone.
func TestWordsAsModels(t *testing.T) {
	const suffix = " AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/126.0.6478.71 Mobile Safari/537.36"
	for _, word := range append([]string{"Bot", "Robots", "Scan", "Scanner"}, words...) {
		phone := "Mozilla/5.0 (Linux; Android 14; " + word + " X1 Build/" + word + "; wv)" + suffix
		if Is(phone) {
			t.Errorf("taken for a program: %s", phone)
		}
		for _, program := range []string{
			"Mozilla/5.0 (Linux; Android 14; Pixel 8)" + suffix + " " + word + "/1.0",
			"Mozilla/5.0 (Linux; Android 14; Pixel 8; compatible; " + word + ")" + suffix,
			"Mozilla/5.0 (X11; Linux x86_64; " + word + ")" + suffix,
		} {
			if !Is(program) {
				t.Errorf("taken for a person: %s", program)
			}
		}
	}
}

// However long the header is, only its beginning counts.
func TestLength(t *testing.T) {
	person := "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
	if !Is(person + strings.Repeat(" ", 1000) + "Googlebot/2.1") {
		t.Error("a name within the limit was overlooked")
	}
	if Is(person + strings.Repeat(" ", maxLength) + "Googlebot/2.1") {
		t.Error("the limit isn't kept")
	}
}

func FuzzIs(f *testing.F) {
	f.Fuzz(func(t *testing.T, ua string) {
		// Whoever is called a bot at the very beginning is one, unless it acts
		// for a person.
		marked := "Examplebot/1.0 " + ua
		if !Is(marked) && !containsAny(strings.ToLower(ua), onBehalf) {
			t.Errorf("taken for a person: %q", marked)
		}
		// Whatever page a person's browser comes from, it stays a person's.
		from := "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0 | Initiator: https://" +
			strings.NewReplacer(" ", "", "|", "").Replace(ua)
		if Is(from) {
			t.Errorf("taken for a program: %q", from)
		}
	})
}

// TestRemembered: what is remembered of one is never taken for another's.
func TestRemembered(t *testing.T) {
	t.Parallel()
	all := append(userAgents(t, "testdata/people.txt"), userAgents(t, "testdata/programs.txt")...)
	for range 3 {
		for i, ua := range all {
			for _, other := range []string{ua, all[i*7%len(all)], strings.Repeat(ua, 20)} {
				if got, want := Is(other), judge(other); got != want {
					t.Fatalf("%q: %v, want %v", other, got, want)
				}
			}
		}
	}
}

func BenchmarkIs(b *testing.B) {
	b.Run("the same", func(b *testing.B) {
		ua := userAgents(b, "testdata/people.txt")[0]
		b.ReportAllocs()
		for b.Loop() {
			Is(ua)
		}
	})
	for name, file := range map[string]string{"people": "testdata/people.txt", "programs": "testdata/programs.txt"} {
		b.Run(name, func(b *testing.B) {
			all := userAgents(b, file)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				judge(all[i%len(all)])
			}
		})
	}
}
