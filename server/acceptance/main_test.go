package acceptance

import (
	"os"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	coretest.RemoveBinaries()
	os.Exit(code)
}
