// Command pimoe-expert-int8 serves feed-forward experts on the backend of package backends/int8: weights and activations
// of 8 bits, numeric class int8g32. The host starts it; it has no flags and refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Expert(ffn.New(int8.New(), ffn.Options{Version: "1"}))
}
