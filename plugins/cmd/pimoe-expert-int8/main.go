// Command pimoe-expert-int8 serves feed-forward experts on the backend of package backends/int8: weights and activations
// of 8 bits, numeric class int8g32. The host starts it; by hand it takes `serve` alone, for hosts on other machines, and
// refuses to run otherwise.
package main

import (
	"os"

	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/plugins/experts/remote"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	e := ffn.New(int8.New(), ffn.Options{Version: "1"})
	if remote.Wanted(os.Args) {
		os.Exit(remote.Main(os.Args, e))
	}
	serve.Expert(e)
}
