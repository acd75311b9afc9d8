package ref_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/backendtest"
	"github.com/pimoe/pimoe/backends/ref"
)

func TestBackend(t *testing.T) {
	backendtest.Test(t, func() backends.Backend { return ref.New() })
}
