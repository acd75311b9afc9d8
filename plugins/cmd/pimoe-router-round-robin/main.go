// Command pimoe-router-round-robin serves the router of package plugins/routers/roundrobin. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/roundrobin"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(roundrobin.New())
}
