// Package pb is the generated code of server/oip/inference.proto. server/oip translates its messages and server serves
// them; tests use its client. It refuses to be edited: run server/oip/generate.sh.
package pb

//go:generate ../generate.sh
