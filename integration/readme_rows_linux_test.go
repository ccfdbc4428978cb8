package integration

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// proofs are the tests of what docs/reliability.md says "What happens when", by
// the rows' first cells.
var proofs = map[string]func(*testing.T){
	"A tracker is down, slow or ill":                                        TestFaults,
	"A tracker fails at some records, whatever they hold, and takes others": TestPoison,
	"One of several trackers hangs":                                         TestSlowTrackersStarveNobody,
	"A tracker condemns a record":                                           TestDeadLettersAreBounded,
	"A record gets older than `max_age`":                                    TestTooOld,
	"A hundred thousand records wait":                                       TestBacklog,
	"A thousand sites have a tracker each":                                  TestManySites,
	"Caddy is killed":                                                       TestKill,
	"Caddy is stopped or upgraded":                                          TestTerminate,
	"A tracker hangs when Caddy is stopped":                                 TestDrainIsBounded,
	"The configuration is reloaded":                                         TestChurn,
	"A tracker is taken out of the configuration":                           TestTrackerComesBack,
	"A key's placeholder is empty":                                          TestKeyThatIsMissing,
	"The queue's `path` is changed":                                         TestQueueMoves,
	"Caddy's storage can't be written, and there is no `secret`":            TestStorageCannotBeWritten,
	"The queue is full":                                                     TestQueueIsFull,
	"The disk is full, by others or by the queue itself":                    TestDiskIsFull,
	"The disk hangs":                                                        TestDiskHangs,
	"The disk is read-only":                                                 TestDiskIsReadOnly,
	"The queue's files belong to somebody else":                             TestFileIsSomebodyElses,
	"Another process uses the queue":                                        TestTwoProcesses,
	"The queue is of a later version":                                       TestFileOfALaterVersion,
	"The browser's cookie is of a later version":                            TestCookieOfALaterVersion,
	"A file of the queue is damaged":                                        TestQueueIsCorrupt,
	"The queue's directory is removed or replaced":                          TestQueueIsRemoved,
	"A file of the queue is damaged while it is open":                       TestFileIsSpoiltWhileOpen,
	"A visitor hangs up early":                                              TestClientGoesAway,
}

// TestReadmeRowsHaveTests: what the documentation promises for the case that
// something goes wrong is seen to hold by a test, row by row.
func TestReadmeRowsHaveTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## What happens when\n")
	if !found {
		t.Fatal("docs/reliability.md has no section on it")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows [][]string
	for line := range strings.Lines(section) {
		if row, ok := strings.CutPrefix(strings.TrimSpace(line), "|"); ok && !strings.Contains(line, "---") {
			cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	tested := map[string]bool{}
	answers := ""
	for _, row := range rows {
		switch {
		case row[0] == "":
		case strings.HasSuffix(row[0], "…"):
			answers = row[0]
		case answers == "if the tracker answers with …":
			// The trackers that it is about have their own proof of it.
		case answers != "":
			tested[row[0]] = true
			faultsProve(t, row)
		default:
			tested[row[0]] = true
			test := proofs[row[0]]
			if test == nil {
				t.Errorf("no test proves the row %q", row[0])
				continue
			}
			// Only what is called like that is run.
			name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
			if !strings.HasPrefix(name[strings.LastIndex(name, ".")+1:], "Test") {
				t.Errorf("%s, which is to prove the row %q, is no test", name, row[0])
			}
		}
	}
	for row := range proofs {
		if !tested[row] {
			t.Errorf("docs/reliability.md has no row %q", row)
		}
	}
	for _, f := range faults() {
		if !tested[f.row] {
			t.Errorf("docs/reliability.md has no row %q", f.row)
		}
	}
}

// faultsProve fails the test unless there are faults for a row of the table of
// answers, and all have the outcome that the row tells.
func faultsProve(t *testing.T, row []string) {
	t.Helper()
	n := 0
	for _, f := range faults() {
		if f.row != row[0] {
			continue
		}
		if n++; !strings.HasPrefix(row[1], f.want) {
			t.Errorf("%q: docs/reliability.md says that the record %s, but with the fault %s it %s", row[0], row[1], f.name, f.want)
		}
	}
	if n == 0 {
		t.Errorf("no fault proves the row %q", row[0])
	}
}
