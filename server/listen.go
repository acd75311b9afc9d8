package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/pimoe/pimoe/sdk"
)

// checkPublic refuses an address beyond loopback without anything to check a credential with.
func checkPublic(addr string, guarded bool) error { return checkOpen("server.addr", addr, guarded) }

// checkOpen is checkPublic for the address of any setting.
func checkOpen(setting, addr string, guarded bool) error {
	loopback, err := isLoopback(addr)
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	if !loopback && !guarded {
		return fmt.Errorf("%s %s is reachable from other machines and no API key is set: set PIMOE_API_KEY or PIMOE_API_KEY_FILE, make a key with pimoe keys create, set auth.jwt, or listen on 127.0.0.1: %w", setting, addr, sdk.ErrInvalid)
	}
	return nil
}

// checkAdmin refuses an admin address beyond loopback: it takes those on this machine as admins.
func checkAdmin(addr string) error {
	loopback, err := isLoopback(addr)
	if err != nil {
		return fmt.Errorf("server.admin_addr: %w", err)
	}
	if !loopback {
		return fmt.Errorf("server.admin_addr %s is reachable from other machines: the admin API listens on loopback only (127.0.0.1, [::1], localhost) or is \"off\": %w", addr, sdk.ErrInvalid)
	}
	return nil
}

// isLoopback reports whether all of an address stays on this machine. A name is looked up.
func isLoopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("address %q: want host:port: %w", addr, sdk.ErrInvalid)
	}
	if host == "" {
		return false, nil // all interfaces
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback(), nil
	}
	ips, err := net.LookupIP(host)
	if err != nil || len(ips) == 0 {
		return false, fmt.Errorf("address %q: the host name is unknown: %w", addr, sdk.ErrInvalid)
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return false, nil
		}
	}
	return true, nil
}

// listen binds an address for at most so many connections, 0 = as many as come; its error names the setting, and says so if another program has the port.
func listen(setting, addr string, most int64) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another program: choose another port (0 = any free one): %w", setting, addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: listen on %s: %w", setting, addr, err)
	}
	return &lingering{Listener: ln, crowd: newCrowd(most)}, nil
}
