// Command pimoe-router-hash serves the router of package plugins/routers/hash. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/hash"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(hash.New())
}
