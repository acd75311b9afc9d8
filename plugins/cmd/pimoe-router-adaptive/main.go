// Command pimoe-router-adaptive serves the router of package plugins/routers/adaptive. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/adaptive"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(adaptive.New())
}
