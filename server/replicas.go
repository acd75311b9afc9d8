package server

import (
	"context"
	"net/http"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/strictjson"
)

// replicaRoutes act on single replicas of a group.
func (s *Server) replicaRoutes() []route {
	const post = http.MethodPost
	return []route{
		{method: post, path: groupPath + "restart", change: &change{"experts.restart", []string{"replica"}}, handle: s.restart},
		{method: post, path: groupPath + "drain", change: &change{"experts.drain", []string{"replica"}}, handle: s.drainReplica},
		{method: post, path: groupPath + "chaos", change: &change{"experts.chaos", []string{"replica", "fault"}}, handle: s.chaos},
	}
}

// readReplica reads {"replica": 1} and, where fault is not nil, {"fault": "kill"}; -1 = no replica is named.
func readReplica(body []byte, fault *string) (int, error) {
	replica := -1
	if len(body) == 0 {
		return replica, nil
	}
	fields := strictjson.Fields{"replica": replicaField(&replica)}
	if fault != nil {
		fields["fault"] = func(v strictjson.Value) (err error) { *fault, err = v.Text(); return }
	}
	err := fields.Read(body)
	return replica, err
}

// replicaField reads the number of a replica.
func replicaField(to *int) func(strictjson.Value) error {
	return func(v strictjson.Value) error {
		n, err := v.Int(0, 1<<20)
		*to = int(n)
		return err
	}
}

// restart is POST /admin/experts/GROUP/restart: fresh processes for the group, or for the replica that the body names. No request
// waits for it. It answers when they serve and the old ones have ended.
func (s *Server) restart(ctx context.Context, r *request) (*reply, error) {
	replica, err := readReplica(r.body, nil)
	if err != nil {
		return nil, err
	}
	if err := s.service.changes.Restart(ctx, r.group, replica); err != nil {
		return nil, err
	}
	return jsonReply(map[string]bool{"restarted": true}), nil
}

// drainReplica is POST /admin/experts/GROUP/drain with {"replica": N}: it takes a replica out of use. It answers when the replica
// has finished its calls and ended.
func (s *Server) drainReplica(_ context.Context, r *request) (*reply, error) {
	replica, err := readReplica(r.body, nil)
	if err != nil {
		return nil, err
	}
	if replica < 0 {
		return nil, &strictjson.Error{Path: "replica", Expected: "the number of a replica", Got: "nothing"}
	}
	st, err := s.service.changes.Drain(r.group, replica)
	if err != nil {
		return nil, err
	}
	return jsonReply(st), nil
}

// chaos is POST /admin/experts/GROUP/chaos with {"replica": 0, "fault": "kill"}: it does to a process what an accident does, where
// chaos.enabled allows it.
func (s *Server) chaos(_ context.Context, r *request) (*reply, error) {
	if !s.cfg.Chaos.Enabled {
		return nil, &fault{status: http.StatusConflict, code: "chaos_disabled", message: "this server does not hurt its processes: chaos.enabled is false"}
	}
	how := host.FaultKill
	replica, err := readReplica(r.body, &how)
	if err != nil {
		return nil, err
	}
	pid, err := s.service.changes.Hurt(r.group, max(replica, 0), how)
	if err != nil {
		return nil, err
	}
	rep := jsonReply(map[string]any{"fault": how, "pid": pid})
	rep.outcome = map[string]any{"pid": pid}
	return rep, nil
}
