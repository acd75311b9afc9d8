package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	brotli "github.com/molecule-man/go-brrr"
)

// brotliLevel is where the time begins to double while the size hardly shrinks. fasthttp's own functions would do, but
// leave goroutines behind.
const brotliLevel = 5

// packFrom is the least body that is packed: below it the answer fits one packet either way.
const packFrom = 1 << 10

// pack compresses an answer of a route that says it helps: descriptions, lists, metrics. Answers of the model are not: who can put
// text into a prompt and sees the length of the answer on the wire could guess at what else is in it, letter by letter
// (BREACH), and the tokens of a stream would wait for each other.
func (x *exchange) pack(accept string, rep *reply) {
	if !x.route.pack || len(rep.body) < packFrom || rep.header[fiber.HeaderContentEncoding] != "" {
		return
	}
	header := map[string]string{}
	for k, v := range rep.header {
		header[k] = v
	}
	header[fiber.HeaderVary] = strings.TrimPrefix(header[fiber.HeaderVary]+", "+fiber.HeaderAcceptEncoding, ", ")
	rep.header = header
	var b bytes.Buffer
	var w io.WriteCloser
	encoding := encodingOf(accept)
	switch encoding {
	case "br":
		w, _ = brotli.NewWriter(&b, brotliLevel)
	case "gzip":
		w = gzip.NewWriter(&b)
	default:
		return
	}
	_, err := w.Write(rep.body)
	if errors.Join(err, w.Close()) != nil {
		return // can't happen in memory; the answer goes out as it is
	}
	rep.body, header[fiber.HeaderContentEncoding] = b.Bytes(), encoding
}

// encodingOf is the best of the encodings that a client takes; empty for none.
func encodingOf(accept string) string {
	taken := map[string]bool{}
	for part := range strings.SplitSeq(accept, ",") {
		name, params, _ := strings.Cut(part, ";")
		quality := 1.0
		if _, q, ok := strings.Cut(strings.ReplaceAll(params, " ", ""), "q="); ok {
			quality, _ = strconv.ParseFloat(q, 64) // what is no number is no wish
		}
		taken[strings.ToLower(strings.TrimSpace(name))] = quality > 0
	}
	for _, name := range []string{"br", "gzip"} {
		if taken[name] {
			return name
		}
	}
	return ""
}
