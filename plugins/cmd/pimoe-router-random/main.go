// Command pimoe-router-random serves the router of package plugins/routers/random. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/random"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(random.New())
}
