// Command pimoe-router-learned serves the router of package plugins/routers/learned. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/learned"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(learned.New())
}
