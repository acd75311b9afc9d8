// Package pb is the generated code of sdk/proto/v1. Only sdk/internal/wire, sdk/serve and sdk/client import it; the
// contract that authors see is plain Go types. It refuses to be edited: run sdk/proto/generate.sh.
package pb

//go:generate ../../proto/generate.sh
