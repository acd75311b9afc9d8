// Command pimoe-expert-cpu serves feed-forward experts on the backend of package backends/cpu. The host starts it; by
// hand it takes `serve` alone, for hosts on other machines, and refuses to run otherwise.
package main

import (
	"os"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/plugins/experts/remote"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	e := ffn.New(cpu.New(), ffn.Options{Version: "1"})
	if remote.Wanted(os.Args) {
		os.Exit(remote.Main(os.Args, e))
	}
	serve.Expert(e)
}
