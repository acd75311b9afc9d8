package server

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/access"
)

// X18: a server whose clock jumps refuses a token whose time is up by the wall, up to the leeway, takes it again when the clock is
// right again, and changes nothing else: limits go on, and jobs are done.
func TestJumpsOfTheClock(t *testing.T) {
	g, clock := newGate(t), coretest.NewClock(t)
	g.cfg.Limits.Rates = []config.Rate{{Tenant: "limited", Requests: 2}}
	g.cfg.State.File = ""
	_, secret, err := g.file.Create(access.Template{Role: access.User, Tenant: "jobs"})
	if err != nil {
		t.Fatal(err)
	}
	key := "Bearer " + secret
	svc := fakeService(&fakeEngine{script: func(context.Context, int) (engine.Token, error) {
		return engine.Token{ID: 1, Text: "x", HasToken: true, Finish: engine.FinishLength}, nil
	}})
	r := serveConfig(t, svc, g.cfg, nil, State(openState(t, g.cfg)), func(o *options) { o.clock = clock.Now })
	const body = `{"model":"fake","prompt":"abc","max_tokens":1}`
	post := func(claims map[string]any) int {
		t.Helper()
		claims["roles"] = "user"
		return r.post("/v1/completions", body, "Authorization", "Bearer "+g.token(claims)).status
	}
	until := time.Now().Add(10 * time.Minute).Unix()
	ann := func() int { return post(map[string]any{"exp": until}) }
	limited := func() int {
		return post(map[string]any{"org": "limited", "exp": time.Now().Add(100 * 24 * time.Hour).Unix()})
	}

	if limited() != 200 || limited() != 200 || limited() != 429 {
		t.Fatal("the limit does not hold at first")
	}
	for _, jump := range coretest.Jumps {
		clock.Jump(jump)
		a := r.post(jobsPath, `{"kind":"completion","request":`+body+`}`, "Authorization", key)
		if a.status != http.StatusAccepted {
			t.Fatalf("a job after a jump of %s: %d %s", jump, a.status, a.body)
		}
		id, _ := a.json(t)["id"].(string)
		eventually(t, 20*time.Second, "the job's end", func() bool {
			return r.get(jobsPath+"/"+id, "Authorization", key).json(t)["state"] == "done"
		})
		want := 200
		if jump > 10*time.Minute {
			want = 401
		}
		if got := ann(); got != want {
			t.Errorf("a token after a jump of %s: %d, want %d", jump, got, want)
		}
		if got := limited(); got != 429 {
			t.Errorf("a jump of %s gave a request: %d", jump, got)
		}
		clock.Jump(-jump)
		if got := ann(); got != 200 {
			t.Errorf("a token with the clock right again: %d", got)
		}
	}
	leeway := g.cfg.Auth.JWT.Leeway
	if leeway > time.Minute {
		t.Fatalf("a leeway of %s", leeway)
	}
	clock.Jump(10*time.Minute + leeway - 10*time.Second)
	if got := ann(); got != 200 {
		t.Errorf("within the leeway: %d", got)
	}
	clock.Jump(20 * time.Second)
	if got := ann(); got != 401 {
		t.Errorf("beyond the leeway: %d", got)
	}
	clock.Pass(time.Minute)
	if got := limited(); got != 200 {
		t.Errorf("a minute later: %d", got)
	}
}
