// Command pimoe-router-hierarchical serves the router of package plugins/routers/hierarchical. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/hierarchical"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(hierarchical.New())
}
