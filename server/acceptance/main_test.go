package acceptance

import (
	"os"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

func TestMain(m *testing.M) {
	os.Setenv("PIMOE_CACHE__ANSWERS", "off") // they compare what is computed; who tests the cache turns it on
	code := m.Run()
	coretest.RemoveBinaries()
	os.Exit(code)
}
