package commands

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// maxToldRows is how many rows are told of which no link can be made.
	maxToldRows = 20
	// progressPause is how often the progress is shown.
	progressPause = 200 * time.Millisecond
	// maxHeadRow is within how many bytes the first row ends, for the separator
	// to be told from it.
	maxHeadRow = 4 << 10
)

// makeRows makes a link for each row of a file. It holds one row at a time.
func (m *linkMaker) makeRows(cmd *cobra.Command, file string) error {
	in := cmd.InOrStdin()
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		defer opened.Close()
		in = opened
	}
	var out io.Writer = cmd.OutOrStdout()
	if isTerminal(out) {
		out = output(cmd)
	}
	buffered := bufio.NewWriterSize(out, 64<<10)
	rows := &rowLinker{linkMaker: m, file: file, log: terminal{cmd.ErrOrStderr()}, out: csv.NewWriter(buffered)}
	if isTerminal(cmd.ErrOrStderr()) && !isTerminal(cmd.OutOrStdout()) {
		rows.progress = cmd.ErrOrStderr()
	}
	err := rows.run(in)
	rows.out.Flush()
	return errors.Join(err, rows.out.Error(), buffered.Flush(), rows.end())
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// rowLinker makes the links of a file's rows.
type rowLinker struct {
	*linkMaker
	file            string
	out             *csv.Writer
	log             io.Writer
	progress        io.Writer // or nil
	shown           time.Time
	made, left      int
	identity, event int            // their columns, or -1
	properties      map[int]string // the names of the other columns
}

func (l *rowLinker) run(in io.Reader) error {
	buffered := bufio.NewReaderSize(in, 64<<10)
	if start, _ := buffered.Peek(3); string(start) == "\ufeff" { // spreadsheets write it
		_, _ = buffered.Discard(3)
	}
	reader := csv.NewReader(buffered)
	reader.ReuseRecord = true
	head, _ := buffered.Peek(maxHeadRow)
	head, _, _ = bytes.Cut(head, []byte("\n"))
	for _, separator := range ";\t" { // where the comma is the decimal sign, or tables are copied
		if !bytes.ContainsRune(head, ',') && bytes.ContainsRune(head, separator) {
			reader.Comma, l.out.Comma = separator, separator
		}
	}
	columns, err := reader.Read()
	if err == io.EOF {
		return fmt.Errorf("%s is empty: its first row has the columns' names, such as identity,event,plan", l.file)
	} else if err != nil {
		return fmt.Errorf("%s: %w", l.file, err)
	}
	if err := l.name(columns); err != nil {
		return fmt.Errorf("%s: %w", l.file, err)
	}
	if err := l.out.Write(append(columns, "link")); err != nil {
		return err
	}
	for {
		row, err := reader.Read()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", l.file, err)
		}
		line, _ := reader.FieldPos(0)
		if link, err := l.row(row); err != nil {
			if l.left++; l.left <= maxToldRows {
				fmt.Fprintf(l.log, "%s:%d: no link: %s\n", l.file, line, strings.ReplaceAll(err.Error(), "\n", "; "))
			}
		} else if err := l.out.Write(append(row, link)); err != nil {
			return err
		} else {
			l.made++
		}
		l.show()
	}
}

// name reads the columns' names.
func (l *rowLinker) name(columns []string) error {
	l.identity, l.event, l.properties = slices.Index(columns, "identity"), slices.Index(columns, "event"), map[int]string{}
	for i, name := range columns {
		switch {
		case slices.Contains(columns[:i], name):
			return fmt.Errorf("the column %q is there twice", name)
		case name == "link":
			return errors.New(`there is a column "link" already: the links go there, so rename it`)
		case strings.TrimSpace(name) == "":
			return fmt.Errorf("column %d has no name", i+1)
		case i != l.identity && i != l.event && name[0] != '_':
			l.properties[i] = name
		}
	}
	if l.identity < 0 {
		return fmt.Errorf("there is no column %q among %q", "identity", columns)
	}
	return nil
}

// row makes the link of a row.
func (l *rowLinker) row(cells []string) (string, error) {
	asked := tagging.Tags{Identity: cells[l.identity], Event: l.asked.Event, Properties: slices.Clone(l.asked.Properties)}
	if asked.Identity == "" {
		return "", errors.New("the identity is empty")
	}
	if isMergeField(asked.Identity) {
		return "", errors.New("the identity is a merge field that wasn't filled in")
	}
	if l.event >= 0 && cells[l.event] != "" {
		asked.Event = cells[l.event]
	}
	for i, cell := range cells {
		name, ok := l.properties[i]
		if !ok || cell == "" {
			continue
		}
		asked.Properties = slices.DeleteFunc(asked.Properties, func(p tagging.Property) bool { return p.Name == name })
		asked.Properties = append(asked.Properties, tagging.Property{Name: name, Value: cell})
	}
	return l.link(asked)
}

// show shows the progress, now and then.
func (l *rowLinker) show() {
	if l.progress != nil && time.Since(l.shown) > progressPause {
		l.shown = time.Now()
		fmt.Fprintf(l.progress, "\r%d links", l.made)
	}
}

// end says how it went.
func (l *rowLinker) end() error {
	if l.progress != nil {
		fmt.Fprintf(l.progress, "\r%d links\n", l.made)
	}
	if l.left > 0 {
		return fmt.Errorf("%d of %d rows have no link", l.left, l.made+l.left)
	}
	return nil
}
