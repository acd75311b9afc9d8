package main

import (
	"testing"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/sdktest"
)

func TestConformance(t *testing.T) {
	sdktest.TestExpert(t, func() expert.Expert { return &swiglu{} })
}
