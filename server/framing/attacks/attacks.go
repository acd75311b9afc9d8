// Package attacks makes raw requests with which somebody could try to have two HTTP implementations see different
// requests in the same bytes, and some that are odd but right. They come from rules: each place of a request is combined
// with each way to bend it.
//
// The tests of server/framing, server and its front proxies use it. The package refuses to send anything, to judge an answer beyond
// what a vector says of itself, and to draw at random: every run has the same vectors.
package attacks

import (
	"fmt"
	"strings"
)

// Vector is what is sent on one connection.
type Vector struct {
	Name string
	Raw  string
	// Fine says that the first request is right: it may be answered with anything. The others must be refused, and
	// nothing behind them may be answered.
	Fine bool
}

// Smuggled is the path of the request that stands behind each attack, where it must not be found.
const Smuggled = "/smuggled"

const (
	path = "/v1/completions"
	tail = "GET " + Smuggled + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
)

// All is every vector, always in the same order.
func All() []Vector {
	var b builder
	for _, f := range []func(*builder){lengths, encodings, both, lineEnds, controls, names, folds, requestLines, targets, hosts, chunks, trailers, bodies, versions, others, right} {
		f(&b)
	}
	return b.out
}

type builder struct{ out []Vector }

func (b *builder) add(kind, what, raw string) {
	b.out = append(b.out, Vector{Name: fmt.Sprintf("%s %.60q", kind, what), Raw: raw})
}

func (b *builder) fine(kind, what, raw string) {
	b.out = append(b.out, Vector{Name: fmt.Sprintf("%s %.60q", kind, what), Raw: raw, Fine: true})
}

// post is a request with some header lines and what follows its head.
func post(headers, rest string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + headers + "\r\n" + rest
}

func get(headers string) string {
	return "GET /livez HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n"
}

// badLengths are values of Content-Length that some read as 4 and some as something else.
var badLengths = []string{
	"", "+4", "-4", "-0", "04", "0000000000000004", "4,4", "4, 4", "4,5", "4 4", "4;", "4.0", "4e0", "0x4", "0b100", "4_0", "4k", "\"4\"", "'4'", "four",
	"99999999999999999999", "18446744073709551620", "4\x004", "4\xa0", "\xef\xbc\x94", "٤", "4\v", "\f4", "(4)4", "4/5", "4 bytes", "NaN", "null", "-1", "1e400", "%34",
}

func lengths(b *builder) {
	for _, v := range badLengths {
		b.add("length", v, post("Content-Length: "+v+"\r\n", "{}  "+tail))
	}
	for _, pair := range [][2]string{{"2", "2"}, {"2", "4"}, {"4", "2"}, {"0", "30"}, {"30", "0"}, {"2", ""}, {"", "2"}, {"2", "x"}} {
		for _, second := range []string{"Content-Length", "content-length", "CONTENT-LENGTH", "Content-length"} {
			b.add("two lengths", second+" "+pair[0]+" "+pair[1], post("Content-Length: "+pair[0]+"\r\n"+second+": "+pair[1]+"\r\n", "{}"+tail))
		}
	}
}

// badEncodings are values of Transfer-Encoding that some take for chunked.
var badEncodings = []string{
	"", "xchunked", "chunkedx", "chunk", "chunked, chunked", "chunked,chunked", "identity", "identity, chunked", "chunked, identity", "gzip", "gzip, chunked", "chunked, gzip",
	"deflate", "compress, chunked", ",chunked", "chunked,", ", chunked", "chunked ,", "\"chunked\"", "'chunked'", "chunked;", "chunked;q=1", "chunked; a=b", "chunked foo", "foo chunked",
	"\x0bchunked", "chunked\x0b", "\x0cchunked", "chunked\x00", "\x00chunked", "chunked\x7f", "\xa0chunked", "chunked\xff", "ch\xc3\xbcnked", "chun\tked", "chun ked", "[chunked]", "(chunked)", "chunked\x85", "c%68unked", "trailers", "chunked\\", "cow", "0", "chunKed,x",
}

func encodings(b *builder) {
	for _, v := range badEncodings {
		b.add("encoding", v, post("Transfer-Encoding: "+v+"\r\n", "0\r\n\r\n"+tail))
		b.add("encoding and length", v, post("Content-Length: 5\r\nTransfer-Encoding: "+v+"\r\n", "0\r\n\r\n"+tail))
	}
	for _, second := range []string{"chunked", "identity", "x", ""} {
		b.add("two encodings", second, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: "+second+"\r\n", "0\r\n\r\n"+tail))
		if second == "chunked" {
			continue
		}
		b.add("two encodings, other order", second, post("Transfer-Encoding: "+second+"\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+tail))
	}
}

// bentNames are ways to write a header's name that some accept.
func bentNames(name string) []string {
	head, last := name[:len(name)-1], name[len(name)-1:]
	return []string{
		name + " ", name + "\t", " " + name, "\t" + name, name + "\v", "\v" + name, name + "\x00", "\x00" + name, head + "\x00" + last, name + "\xa0", "\xa0" + name,
		strings.Replace(name, "-", " ", 1), strings.Replace(name, "-", "\t", 1), strings.Replace(name, "-", "\x00", 1), strings.Replace(name, "-", "\xad", 1), "\"" + name + "\"", name + "\"",
		"(" + name + ")", name + ",X", name + ";", "[" + name, name + "]", "X\r" + name, "X: y\r" + name, "X: y\n" + name, "\r" + name, "\n" + name, name + "\r", name + "\n", "{" + name + "}", name + "/", "@" + name, "\xef\xbb\xbf" + name,
	}
}

// both are lengths and encodings together, plain and bent.
func both(b *builder) {
	for _, order := range []string{"Content-Length: %s\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: %s\r\n"} {
		for _, n := range []string{"0", "4", "5", "6", "30", "300"} {
			b.add("length and encoding", fmt.Sprintf(order, n), post(fmt.Sprintf(order, n), "0\r\n\r\n"+tail))
		}
	}
	for _, name := range bentNames("Transfer-Encoding") {
		b.add("bent encoding", name, post("Content-Length: 5\r\n"+name+": chunked\r\n", "0\r\n\r\n"+tail))
	}
	for _, name := range bentNames("Content-Length") {
		b.add("bent length", name, post(name+": 30\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+tail))
	}
}

// lineEnds bends each line end of a head.
func lineEnds(b *builder) {
	lines := []string{"POST " + path + " HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 2", ""}
	for _, end := range []string{"\n", "\r", "\r\r\n", "\n\r", "\r \n", "\r\t\n", "\v\n", "\x00\r\n", "\r\x00\n"} {
		for i := range lines {
			var raw strings.Builder
			for j, l := range lines {
				raw.WriteString(l)
				if i == j {
					raw.WriteString(end)
				} else {
					raw.WriteString("\r\n")
				}
			}
			b.add(fmt.Sprintf("line %d ends", i), end, raw.String()+"{}"+tail)
		}
	}
	b.add("line ends", "all bare", "GET /livez HTTP/1.1\nHost: localhost\n\n"+tail)
	b.add("line ends", "two empty lines first", "\r\n\r\n"+get("")+tail)
	b.add("line ends", "a bare one first", "\n"+get("")+tail)
}

// controls puts each control character in each place of a head.
func controls(b *builder) {
	for c := range 0x80 {
		if c >= ' ' && c != 0x7f || c == '\t' || c == '\n' || c == '\r' {
			continue
		}
		s := string(rune(c))
		b.add("control in a value", s, get("X-A: b"+s+"c\r\n")+tail)
		b.add("control in a name", s, get("X-"+s+"A: b\r\n")+tail)
		b.add("control in a target", s, "GET /li"+s+"vez HTTP/1.1\r\nHost: localhost\r\n\r\n"+tail)
		b.add("control in a method", s, "G"+s+"ET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"+tail)
	}
}

func names(b *builder) {
	for _, line := range []string{"NoColon", ": no name", ":", "No Colon: x", "A\tB: x", "A(B): x", "A,B: x", "A;B: x", "A=B: x", "A/B: x", "A[B]: x", "A{B}: x", "A@B: x", "A\"B: x", "A\\B: x", "A?B: x", "A<B>: x", "Ä: x", "\xff: x", "A :x", " : x"} {
		b.add("header line", line, get(line+"\r\n")+tail)
	}
}

func folds(b *builder) {
	for _, fold := range []string{" ", "\t", "  ", " \t", "\t "} {
		b.add("fold of a value", fold, get("X-A: b\r\n"+fold+"c\r\n")+tail)
		b.add("fold of an encoding", fold, post("Transfer-Encoding:\r\n"+fold+"chunked\r\n", "0\r\n\r\n"+tail))
		b.add("fold of a length", fold, post("Content-Length:\r\n"+fold+"2\r\n", "{}"+tail))
		b.add("fold before the first header", fold, "GET /livez HTTP/1.1\r\n"+fold+"Host: localhost\r\nHost: localhost\r\n\r\n"+tail)
		b.add("fold that hides a header", fold, post("X-A: b\r\n"+fold+"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+tail))
	}
}

func requestLines(b *builder) {
	for _, line := range []string{
		"GET", "GET /livez", "GET  /livez HTTP/1.1", "GET /livez  HTTP/1.1", "GET\t/livez HTTP/1.1", "GET /livez\tHTTP/1.1", " GET /livez HTTP/1.1", "GET /livez HTTP/1.1 ", "GET /livez HTTP/1.1 x", "GET /li vez HTTP/1.1",
		"/livez HTTP/1.1", "GET HTTP/1.1", " /livez HTTP/1.1", "G(T /livez HTTP/1.1", "G\"T /livez HTTP/1.1", "GËT /livez HTTP/1.1", "GET:/livez HTTP/1.1", strings.Repeat("G", 33) + " /livez HTTP/1.1", "\xef\xbb\xbfGET /livez HTTP/1.1", "GET /livez HTTP/1.1\x0b",
	} {
		b.add("request line", line, line+"\r\nHost: localhost\r\n\r\n"+tail)
	}
}

func targets(b *builder) {
	for _, t := range []string{
		"livez", "?a", "*", "localhost", "localhost:80", "//", "http:/livez", "http:livez", "http:///livez", "http://evil.example/livez", "https://evil.example/livez", "http://localhost@evil.example/livez", "http://localhost:1/livez", "ftp://localhost/livez", "file:///etc/passwd", "http://localhost#/livez",
		"/livez#a", "/li\\vez", "/li<vez", "/li\"vez", "/li`vez", "/li{vez}", "/li^vez", "/%", "/%4", "/%zz", "/%00", "/a%00b", "/./livez", "/../livez", "/a/../livez", "/a/..", "/.", "/..", "/a/./b", "/%2e/livez", "/%2e%2e/livez", "/a/%2E%2E/livez", "/a%2f..%2flivez", "/..%5clivez", "/li\xffvez", "/lïvez",
	} {
		if t == "//" { // a path of two empty segments is odd and right
			b.fine("target", t, "GET "+t+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
			continue
		}
		b.add("target", t, "GET "+t+" HTTP/1.1\r\nHost: localhost\r\n\r\n"+tail)
	}
	for _, m := range []string{"CONNECT localhost:80", "CONNECT /livez", "POST *"} {
		raw := m + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
		if m == "CONNECT /livez" {
			b.fine("method", m, raw)
			continue
		}
		b.add("method", m, raw+tail)
	}
}

func hosts(b *builder) {
	for _, h := range []string{
		"", " ", "a b", "a,b", "localhost, evil.example", "localhost/", "localhost@evil.example", "localhost#", "localhost?", "localhost\\", "localhost:", "localhost:port", "localhost:1:2", "localhost:999999", "[::1", "::1", "[::1]]", "[[::1]", "[::1]x", "[]", "http://localhost", "loc%61lhost", "localhost\xff", "lócalhost", "(localhost)", "localhost;", "*", "\"localhost\"", strings.Repeat("a", 256),
	} {
		b.add("host", h, "GET /livez HTTP/1.1\r\nHost: "+h+"\r\n\r\n"+tail)
	}
	b.add("host", "none", "GET /livez HTTP/1.1\r\n\r\n"+tail)
	for _, second := range []string{"Host: localhost", "host: localhost", "HOST: evil.example", "Host:"} {
		b.add("two hosts", second, "GET /livez HTTP/1.1\r\nHost: localhost\r\n"+second+"\r\n\r\n"+tail)
	}
	b.add("host", "space before the colon", "GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n"+tail)
	b.add("host", "folded", "GET /livez HTTP/1.1\r\nHost:\r\n localhost\r\n\r\n"+tail)
	b.add("absolute target", "another port", "GET http://localhost:81/livez HTTP/1.1\r\nHost: localhost\r\n\r\n"+tail)
}

func chunks(b *builder) {
	const head = "Transfer-Encoding: chunked\r\n"
	for _, size := range []string{
		"", " ", "2 ", " 2", "\t2", "2\t", "+2", "-2", "-1", "0x2", "2h", "g", "2;", "2;a", "2;a=b", "2; a=\"b\"", "2 ;a", "2;\r", "2;\x00", "2\x00", "000000002", "0000000000000000002", "fffffffff", "ffffffffffffffff", "10000000000000002", "8000000000000000", "2,2", "2.0", "２", "2_", "2" + strings.Repeat(" ", 300), "2;" + strings.Repeat("a", 70_000), strings.Repeat("0", 5000) + "2",
	} {
		b.add("chunk size", size, post(head, size+"\r\n{}\r\n0\r\n\r\n"+tail))
	}
	for _, end := range []string{"\n", "\r", "\r\r\n", "\n\r\n", "xx", "x\r\n", " \r\n", "\r ", "\x00\r\n"} {
		if end != " \r\n" && end != "\x00\r\n" { // chunk sizes have these
			b.add("line end of a chunk's size", end, post(head, "2"+end+"{}\r\n0\r\n\r\n"+tail))
		}
		b.add("line end of a chunk", end, post(head, "2\r\n{}"+end+"0\r\n\r\n"+tail))
		b.add("line end of the last chunk", end, post(head, "2\r\n{}\r\n0"+end+"\r\n"+tail))
		if end != "\r " {
			b.add("line end behind the last chunk", end, post(head, "2\r\n{}\r\n0\r\n"+end+tail))
		}
	}
	for _, body := range []string{"1\r\n{}\r\n0\r\n\r\n", "3\r\n{}\r\n0\r\n\r\n", "2\r\n{}0\r\n\r\n", "{}", "\r\n2\r\n{}\r\n0\r\n\r\n", "2\r\n{}\r\n\r\n0\r\n\r\n", "2\r\n{}\r\n00;\r\n\r\n"} {
		b.add("chunks", body, post(head, body+tail))
	}
}

func trailers(b *builder) {
	for _, line := range []string{"X-A: b", "Content-Length: 5", "Transfer-Encoding: chunked", "Host: evil.example", "Authorization: Bearer x", " fold", "no colon", "X-A: b\r\nX-B: c"} {
		b.add("trailer", line, post("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n"+line+"\r\n\r\n"+tail))
	}
}

// bodies are on methods whose body some don't read.
func bodies(b *builder) {
	for _, m := range []string{"GET", "HEAD"} {
		head := m + " /livez HTTP/1.1\r\nHost: localhost\r\n"
		b.fine("body of a", m, fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(tail), tail))
		b.fine("chunked body of a", m, fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(tail), tail))
	}
	for _, m := range []string{"TRACE", "CONNECT"} {
		head := m + " /livez HTTP/1.1\r\nHost: localhost\r\n"
		b.add("body of a", m, fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(tail), tail))
		b.add("chunked body of a", m, head+"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"+tail)
	}
}

func versions(b *builder) {
	for _, v := range []string{"HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2", "HTTP/2.0", "HTTP/3", "HTTP/11", "HTTP/1.10", "HTTP/01.1", "HTTP/1.01", "HTTP/1.", "HTTP/.1", "HTTP/", "HTTP", "http/1.1", "Http/1.1", "HTTP 1.1", "HTTP/1,1", "HTTP/-1.1", "HTTP/1.1;", "HTTPS/1.1", "ICY/1.1", "RTSP/1.0", "\"HTTP/1.1\"", "HTTP/1.1\x00", "HTTP/１.1"} {
		b.add("version", v, "GET /livez "+v+"\r\nHost: localhost\r\n\r\n"+tail)
	}
	b.add("version", "1.0 with an encoding", "POST "+path+" HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+tail)
	b.add("version", "the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
}

func others(b *builder) {
	for _, v := range []string{"100-continue, x", "200-ok", "", "100", "continue", "100-continue;", "x100-continue"} {
		b.add("expectation", v, post("Content-Length: 2\r\nExpect: "+v+"\r\n", "{}"+tail))
	}
	b.add("switch", "bytes before the answer", get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n")+tail)
	b.add("no HTTP", "TLS", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"+strings.Repeat("\x00", 160)+"\n"+tail)
	b.add("no HTTP", "zeros", strings.Repeat("\x00", 64)+"\r\n\r\n"+tail)
	b.add("no HTTP", "SMTP", "EHLO localhost\r\n"+tail)
	b.add("no HTTP", "a proxy's line", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"+tail)
}

// right are odd requests that mean one thing only.
func right(b *builder) {
	for _, r := range [][2]string{
		{"an empty line first", "\r\n" + get("")}, {"a full target", "GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n"}, {"a full target in capitals", "GET HTTP://LOCALHOST/livez HTTP/1.1\r\nHost: localhost\r\n\r\n"},
		{"old", "GET /livez HTTP/1.0\r\n\r\n"}, {"old with a host", "GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n"}, {"options of all", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"},
		{"length with spaces", post("Content-Length:  2 \t\r\n", "{}")}, {"length without a space", post("Content-Length:2\r\n", "{}")}, {"chunked in capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", "2\r\n{}\r\n0\r\n\r\n")},
		{"chunks with zeros", post("Transfer-Encoding: chunked\r\n", "0002\r\n{}\r\n000\r\n\r\n")}, {"chunks of a byte", post("Transfer-Encoding: chunked\r\n", "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")}, {"no body", post("", "")},
		{"a length of nothing", get("Content-Length: 0\r\n")}, {"an empty value", get("X-A:\r\n")}, {"other letters", get("X-A: ü\r\n")}, {"a tab", get("X-A: b\tc\r\n")}, {"a strange method", "BREW /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"},
		{"underscores", get("Content_Length: 30\r\nTransfer_Encoding: chunked\r\n")}, {"a body of OPTIONS", "OPTIONS /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"}, {"a body of DELETE", "DELETE /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"},
		{"another protocol", get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n")}, {"a switch", get("Connection: Upgrade\r\nUpgrade: websocket\r\n")}, {"continue", post("Content-Length: 2\r\nExpect: 100-continue\r\n", "{}")}, {"many headers", get(strings.Repeat("X-A: b\r\n", 200))},
	} {
		b.fine("right:", r[0], r[1])
	}
}
