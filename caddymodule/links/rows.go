package links

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// maxReportedRows is how many rows without a link are reported.
	maxReportedRows = 20
	// progressPause is how often the progress is shown.
	progressPause = 200 * time.Millisecond
	// maxHeadRow is within how many bytes the first row ends, for the separator
	// to be told from it.
	maxHeadRow = 4 << 10
)

// Rows makes a link for each row of a file.
type Rows struct {
	*Maker
	// File is what messages call it.
	File string
	// Log gets a line for each row of which no link can be made; nil: such rows
	// are among the others, and a column "error" says why.
	Log io.Writer
	// Progress shows how it goes, or is nil.
	Progress io.Writer

	out             *csv.Writer
	shown           time.Time
	made, left      int
	identity, event int            // their columns, or -1
	properties      map[int]string // the names of the other columns
}

// Make reads the rows and writes them with their links. It holds one row at a
// time. The first row has the columns' names. The error also says how many rows
// have no link.
func (l *Rows) Make(in io.Reader, out io.Writer) error {
	buffered := bufio.NewWriterSize(out, 64<<10)
	l.out = csv.NewWriter(buffered)
	err := l.run(in)
	l.out.Flush()
	return errors.Join(err, l.out.Error(), buffered.Flush(), l.end())
}

func (l *Rows) run(in io.Reader) error {
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
	reader.TrimLeadingSpace = reader.Comma != '\t' // people write "john, Clicked"
	columns, err := reader.Read()
	if err == io.EOF {
		return fmt.Errorf("%s is empty: its first row has the columns' names, such as identity,event,plan", l.File)
	} else if err != nil {
		return fmt.Errorf("%s: %w", l.File, err)
	}
	if err := l.name(columns); err != nil {
		return fmt.Errorf("%s: %w", l.File, err)
	}
	added := []string{"link"}
	if l.Log == nil {
		added = append(added, "error")
	}
	if err := l.out.Write(append(columns, added...)); err != nil {
		return err
	}
	for {
		row, err := reader.Read()
		if err == io.EOF {
			return nil
		} else if err != nil {
			err = fmt.Errorf("%s: %w", l.File, err)
			if l.Log == nil {
				last := make([]string, len(columns)+len(added))
				last[len(last)-1] = err.Error() + "; what follows isn't read"
				return l.out.Write(last)
			}
			return err
		}
		line, _ := reader.FieldPos(0)
		link, err := l.row(row)
		why := ""
		if err != nil {
			l.left++
			why = strings.ReplaceAll(err.Error(), "\n", "; ")
		} else {
			l.made++
		}
		switch {
		case l.Log == nil:
			row = append(row, link, why)
		case err == nil:
			row = append(row, link)
		default:
			if l.left <= maxReportedRows {
				fmt.Fprintf(l.Log, "%s:%d: no link: %s\n", l.File, line, why)
			}
			row = nil
		}
		if row != nil {
			if err := l.out.Write(row); err != nil {
				return err
			}
		}
		l.show()
	}
}

// name reads the columns' names.
func (l *Rows) name(columns []string) error {
	l.identity, l.event, l.properties = slices.Index(columns, "identity"), slices.Index(columns, "event"), map[int]string{}
	for i, name := range columns {
		plain := strings.ToLower(strings.TrimSpace(name))
		switch {
		case strings.Contains(name, "\r"):
			return errors.New("its lines end with a carriage return alone, or a column's name has one: save it with the line ends of Windows or Unix")
		case name != plain && (plain == "identity" || plain == "event"):
			return fmt.Errorf("the column %q is to be called %q", name, plain)
		case slices.Contains(columns[:i], name):
			return fmt.Errorf("the column %q is there twice", name)
		case name == "link", name == "error" && l.Log == nil:
			return fmt.Errorf("there is a column %q already: the links go there, so rename it", name)
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
func (l *Rows) row(cells []string) (string, error) {
	asked := tagging.Tags{Identity: cells[l.identity], Event: l.Asked.Event, Properties: slices.Clone(l.Asked.Properties)}
	if asked.Identity == "" {
		return "", errors.New("the identity is empty")
	}
	if IsMergeField(asked.Identity) {
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
	return l.Link(asked)
}

// show shows the progress, now and then.
func (l *Rows) show() {
	if l.Progress != nil && time.Since(l.shown) > progressPause {
		l.shown = time.Now()
		fmt.Fprintf(l.Progress, "\r%d links", l.made)
	}
}

// end says how it went.
func (l *Rows) end() error {
	if l.Progress != nil {
		fmt.Fprintf(l.Progress, "\r%d links\n", l.made)
	}
	if l.left > 0 && l.Log != nil {
		return fmt.Errorf("%d of %d rows have no link", l.left, l.made+l.left)
	}
	return nil
}
