package tagging

import (
	"regexp"
	"strings"
)

// masks are the shapes of values of which a part was made unreadable: several
// people's look the same.
var masks = regexp.MustCompile(strings.Join([]string{
	`\*{2,}|[•●∙█▓▒░＊∗⁎✱]{2,}`, // ****1234
	`\*@|@[^@]*\*.`,                        // j*@example.org, jane@e*.org
	`^\*[^\s*][^*]*@[^*]*$`,                // *ane@example.org
	`(?:\.{3}|…)[^@\s]*@`,                  // j...@example.org
	`^[^\pL\pM\pN_\s"]+@\w`,                // ????@example.org
	`(?i)^(?:x{2,12}[-. ]?){1,4}\d*$`,      // xxx, XXX-XX-1234
	`(?i)^\d+x{3,}\d*$`,                    // 12xxx45
	`(?i)^(?:\w?x{3,}\w?)@|@x{3,}(?:\.|$)`, // jxxxx@example.org, jane@xxx.com
}, "|"))

// isMasked reports whether a part of s was made unreadable.
func isMasked(s string) bool {
	if isSimple(s) && !strings.Contains(s, "...") && !strings.Contains(s, "xx") && !strings.Contains(s, "XX") {
		return false // quickly, as most
	}
	text := strings.Trim(s, "*") // bold in Markdown
	if n := strings.Index(s, text); text == "" || n == 0 || len(s) != n+len(text)+n {
		text = s
	}
	return masks.MatchString(text)
}
