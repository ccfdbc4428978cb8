package commands

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
)

// terminal keeps from a terminal what it would take for a command: links, and
// with them what the commands print, are written by anybody.
type terminal struct{ io.Writer }

// Write writes whole lines or parts of them, but no part of a character.
func (t terminal) Write(p []byte) (int, error) {
	if _, err := io.WriteString(t.Writer, printableLines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = explain.Printable(line)
	}
	return strings.Join(lines, "\n")
}

// printableError is an error that can be shown by a terminal.
type printableError struct{ error }

func (e printableError) Error() string { return printableLines(e.error.Error()) }
func (e printableError) Unwrap() error { return e.error }

// withTerminal makes a command's errors, and those of the ones below it,
// printable.
func withTerminal(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return printableError{err} })
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return printableError{err}
			}
			return nil
		}
	}
	for _, below := range cmd.Commands() {
		withTerminal(below)
	}
}

// printJSON prints a value with all escaped that a terminal would obey, or that
// nobody would see.
func printJSON(w io.Writer, v any) error {
	var text, escaped bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	for _, r := range text.String() {
		if r == '\n' || !explain.Unprintable(r) {
			escaped.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&escaped, "\\u%04x", unit)
		}
	}
	_, err := escaped.WriteTo(w)
	return err
}

// output is where a command prints its answer.
func output(cmd *cobra.Command) io.Writer { return terminal{cmd.OutOrStdout()} }
