// Package table prints what a command has found: as JSON for scripts or as aligned columns for people. The commands of
// pimoe use it. It refuses to let a value from outside break out of its cell.
package table

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// JSON writes v as one JSON document, with text as it is: no HTML escapes.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// Write writes rows under a header, columns aligned by spaces.
func Write(w io.Writer, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	lines := rows
	if header != nil {
		lines = append([][]string{header}, rows...)
	}
	for _, row := range lines {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = clean(c)
		}
		if _, err := fmt.Fprintln(tw, strings.TrimRight(strings.Join(cells, "\t"), "\t")); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return tw.Flush()
}

// clean replaces what would move the cursor or start a new cell.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' || r == '\r' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
