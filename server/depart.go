package server

import (
	"context"
	"net"
	"time"

	"github.com/pimoe/pimoe/server/handover"
)

// Listeners are the bound sockets, under the addresses that were configured, for whoever takes them over.
func (s *Server) Listeners() []handover.Listener {
	list := []handover.Listener{{Name: "public", Addr: s.cfg.Server.Addr, Net: s.public.socket()}}
	if s.admin != nil {
		list = append(list, handover.Listener{Name: "admin", Addr: s.cfg.Server.AdminAddr, Net: s.admin.socket()})
	}
	if s.rpc != nil {
		list = append(list, handover.Listener{Name: "grpc", Addr: s.cfg.Server.GRPCAddr, Net: s.rpc.Listener.(*lingering).Listener})
	}
	return list
}

// socket is the listener without what this server has put around it.
func (l *listener) socket() net.Listener {
	if g, ok := l.Listener.(*lingering); ok {
		return g.Listener
	}
	return l.Listener
}

// Leave has Run end when another process accepts connections on the listeners: they close here without touching their queue,
// requests and streams under way end, the next request on a kept connection is answered and ends it. After
// Server.DrainTimeout what is left ends as at any stop.
func (s *Server) Leave() { s.leave.Do(func() { close(s.left) }) }

// depart answers what still comes on the connections that are open, until all have ended.
func (s *Server) depart(ctx context.Context) {
	s.leaving.Store(true)
	s.live.Close() // who watches comes again, to the other process
	began := time.Now()
	for _, l := range []*listener{s.public, s.admin} {
		if l == nil {
			continue
		}
		if g, ok := l.Listener.(*lingering); ok {
			g.kept.Store(true)
		}
		_ = l.Listener.Close() // its socket lives on elsewhere
	}
	if s.rpc != nil {
		s.rpc.Listener.(*lingering).kept.Store(true)
		s.rpc.leave()
	}
	s.sockets.leave()
	s.log.Info("handed over, ending what is under way", "requests", s.running.count())
	until := began.Add(s.now.Load().Server.DrainTimeout)
	defer s.state.yield(ctx, until, s.log)() // the successor waits for it
	for s.busy() && time.Now().Before(until) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond) // fasthttp has no signal for it
	}
}

// busy reports whether somebody may still send or read something.
func (s *Server) busy() bool {
	return s.running.count() > 0 || s.sockets.count() > 0 || s.rpc != nil && !s.rpc.gone() || s.public.connections() > 0
}

// connections is how many are open. fasthttp's own count is one short while nobody listens, which is when the last one counts.
func (l *listener) connections() int64 {
	if g, ok := l.Listener.(*lingering); ok {
		return g.crowd.now.Load()
	}
	return 0
}

// listen is the inherited listener of that name and address, else a new one.
func (o *options) listen(name, setting, addr string, most int64) (net.Listener, error) {
	for i, l := range o.taken {
		if l.Name == name && l.Addr == addr {
			o.taken = append(o.taken[:i:i], o.taken[i+1:]...)
			return &lingering{Listener: l.Net, crowd: newCrowd(most)}, nil
		}
	}
	return listen(setting, addr, most)
}

// closeTaken closes what was inherited and is not used.
func (o *options) closeTaken() {
	for _, l := range o.taken {
		l.Net.Close()
	}
	o.taken = nil
}
