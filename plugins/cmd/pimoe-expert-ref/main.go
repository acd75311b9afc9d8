// Command pimoe-expert-ref serves feed-forward experts on the backend of package backends/ref. The host starts it; it
// has no flags and refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Expert(ffn.New(ref.New(), ffn.Options{Version: "1"}))
}
