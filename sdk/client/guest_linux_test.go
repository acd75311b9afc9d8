package client_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk/client"
)

// TestGuestKeepsNobody: somebody asks for a place, starts nothing that shakes hands, and then says nothing more, as a program does
// that was stopped at its terminal. The start ends all the same, and leaves nothing.
func TestGuestKeepsNobody(t *testing.T) {
	dir := nothingLeft(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	starter, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer starter.Close()
	fmt.Fprintln(starter, `{"pid":1073741824}`) // of no process that there is
	c := nastyCommand(dir)
	c.StartTimeout = 100 * time.Millisecond
	if c.Guest, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := client.Start(t.Context(), c)
		failed <- err
	}()
	select {
	case err := <-failed:
		var why *client.StartError
		if !errors.As(err, &why) || why.Reason != client.ReasonTimeout {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		starter.Close() // the end of the stay
		<-failed
		t.Error("the start goes on for as long as the guest's starter likes")
	}
}
