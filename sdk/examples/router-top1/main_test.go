package main

import (
	"testing"

	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/sdktest"
)

func TestConformance(t *testing.T) {
	sdktest.TestRouter(t, func() router.Router { return &top1{} })
}
