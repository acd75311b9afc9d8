package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/strictjson"
)

// changeInput is the body of a change of an expert group.
type changeInput struct {
	change         instance.Change
	percent, bound float64
}

// readChange reads {"backend", "plugin", "precision"} and, for a trial, {"percent", "max_relative"}.
func readChange(body []byte, trial bool) (changeInput, error) {
	in := changeInput{percent: 10}
	if len(body) == 0 {
		body = []byte("{}")
	}
	fields := strictjson.Fields{
		"backend":   func(v strictjson.Value) (err error) { in.change.Backend, err = v.Text(); return },
		"plugin":    func(v strictjson.Value) (err error) { in.change.Plugin, err = v.Text(); return },
		"precision": func(v strictjson.Value) (err error) { in.change.Precision, err = v.Text(); return },
	}
	if trial {
		fields["percent"] = func(v strictjson.Value) (err error) { in.percent, err = v.Float(0, 100); return }
		fields["max_relative"] = func(v strictjson.Value) (err error) { in.bound, err = v.Float(0, 1e6); return }
	}
	err := fields.Read(body)
	return in, err
}

// swap is POST /admin/experts/GROUP/swap. It answers when the last request on the old processes has ended, or the client's
// patience has.
func (s *Server) swap(ctx context.Context, r *request) (*reply, error) {
	in, err := readChange(r.body, false)
	if err != nil {
		return nil, err
	}
	done, err := s.service.changes.Swap(ctx, r.group, in.change)
	if done == nil || err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	rep := jsonReply(done)
	rep.outcome = map[string]any{"from": done.From, "to": done.To, "same_bits": done.Difference.Same, "relative": done.Difference.Relative}
	return rep, nil
}

// try is POST /admin/experts/GROUP/canary and /shadow.
func (s *Server) try(kind string) handler {
	return func(ctx context.Context, r *request) (*reply, error) {
		in, err := readChange(r.body, true)
		if err != nil {
			return nil, err
		}
		if in.percent == 0 {
			return nil, &strictjson.Error{Path: "percent", Expected: "more than 0", Got: strconv.Itoa(0)}
		}
		t, err := s.service.changes.Try(ctx, r.group, kind, in.percent/100, in.bound, in.change)
		if err != nil {
			return nil, err
		}
		return jsonReply(t), nil
	}
}

// promote is POST /admin/experts/GROUP/promote.
func (s *Server) promote(ctx context.Context, r *request) (*reply, error) {
	t, err := s.service.changes.Promote(ctx, r.group)
	if err != nil {
		return nil, err
	}
	return jsonReply(t), nil
}

// rollback is POST /admin/experts/GROUP/rollback.
func (s *Server) rollback(ctx context.Context, r *request) (*reply, error) {
	t, err := s.service.changes.Rollback(ctx, r.group)
	if err != nil {
		return nil, err
	}
	return jsonReply(t), nil
}

// trial is GET /admin/trial: the present or last one, null if there was none.
func (s *Server) trial(context.Context, *request) (*reply, error) {
	return jsonReply(map[string]any{"trial": s.service.changes.Trial()}), nil
}

// readScale reads {"replicas": 3} or {"auto": true}, which is 0.
func readScale(body []byte) (int, error) {
	replicas, auto := int64(0), false
	if err := (strictjson.Fields{
		"replicas": func(v strictjson.Value) (err error) { replicas, err = v.Int(1, 1<<20); return },
		"auto":     func(v strictjson.Value) (err error) { auto, err = v.Bool(); return },
	}).Read(body); err != nil {
		return 0, err
	}
	if auto == (replicas > 0) {
		return 0, &strictjson.Error{Path: "replicas", Expected: "a number of replicas, or auto: true instead", Got: "both or neither"}
	}
	return int(replicas), nil
}

// scale is POST /admin/experts/GROUP/scale. It answers when the new replicas serve, or when those too many have finished their
// calls and ended.
func (s *Server) scale(_ context.Context, r *request) (*reply, error) {
	replicas, err := readScale(r.body)
	if err != nil {
		return nil, err
	}
	st, err := s.service.changes.Scale(r.group, replicas)
	if err != nil {
		return nil, err
	}
	return jsonReply(st), nil
}

// rebalance is GET /admin/rebalance: a proposal, nothing is changed.
func (s *Server) rebalance(context.Context, *request) (*reply, error) {
	r, err := s.service.changes.Rebalance()
	if err != nil {
		return nil, err
	}
	return jsonReply(r), nil
}

// regroup is POST /admin/rebalance: the proposal is put into effect. It takes an empty object, as reloadNow does.
func (s *Server) regroup(_ context.Context, r *request) (*reply, error) {
	if err := emptyBody(r.body); err != nil {
		return nil, err
	}
	s.reloading.Lock()
	defer s.reloading.Unlock()
	ctx, cancel := context.WithTimeout(s.base, reloadWithin)
	defer cancel()
	proposal, done, err := s.service.changes.Regroup(ctx)
	if err != nil {
		return nil, rejected(err)
	}
	if done != nil {
		s.apply(s.service.applied(), done)
	}
	rep := jsonReply(proposal)
	rep.outcome = map[string]any{"moved": proposal.Moved}
	return rep, nil
}

// jsonReply is v as JSON.
func jsonReply(v any) *reply {
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(v)}
}

// attach is POST /admin/experts/GROUP/attach with {"patience": seconds}: it lends a group's place to a plugin that its author has
// started, and tells the socket where that is arranged.
func (s *Server) attach(_ context.Context, r *request) (*reply, error) {
	patience, err := readPatience(r.body)
	if err != nil {
		return nil, err
	}
	socket, err := s.service.changes.Lend(r.group, patience)
	if err != nil {
		return nil, err
	}
	return jsonReply(map[string]string{"socket": socket}), nil
}

func readPatience(body []byte) (time.Duration, error) {
	patience := host.DefaultGuestPatience
	if len(body) == 0 {
		return patience, nil
	}
	err := strictjson.Fields{"patience": func(v strictjson.Value) error {
		seconds, err := v.Float(0.001, 3600)
		patience = time.Duration(seconds * float64(time.Second))
		return err
	}}.Read(body)
	return patience, err
}
