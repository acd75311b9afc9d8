// Command pimoe-router-load-aware serves the router of package plugins/routers/loadaware. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/loadaware"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(loadaware.New())
}
