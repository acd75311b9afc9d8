// Command pimoe-router-model serves the router of package plugins/routers/model. The host starts it; it has no flags and
// refuses to be run by hand.
package main

import (
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	serve.Router(model.New())
}
