// Command pimoe-expert-cpu serves feed-forward experts on the backend of package backends/cpu. The host starts it; it
// has no flags and refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Expert(ffn.New(cpu.New(), ffn.Options{Version: "1"}))
}
