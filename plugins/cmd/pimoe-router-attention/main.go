// Command pimoe-router-attention serves the router of package plugins/routers/attention. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/attention"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(attention.New())
}
