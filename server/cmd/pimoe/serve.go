package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/logging"
)

func (a *app) serve() *cobra.Command {
	var pprof, takeOver bool
	var shape string
	c := &cobra.Command{
		Use:   "serve [flags] [MODEL]",
		Short: "Serve a model over HTTP, every expert in its own process",
		Long: `Serve a model over HTTP, every expert in its own process. MODEL is a folder in Hugging Face's
layout, a name in the store, or nothing for the embedded model.

SIGTERM or Ctrl-C stops gracefully: new requests are refused, running ones end, exit code 0. A
second signal ends everything at once. SIGHUP reads the configuration again, as pimoe reload does.
SIGUSR2 starts a successor with the same command line and --take-over, to which this host hands its
listeners as soon as it is ready. Logs go to standard error.`,
		Example: `  pimoe serve
  pimoe serve ./Qwen3-30B-A3B --addr 127.0.0.1:9000
  PIMOE_API_KEY_FILE=/run/secrets/key pimoe serve --addr 0.0.0.0:8080`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.sets = append(a.sets, "model="+args[0])
			}
			return a.runServe(c, shape, takeOver, pprof)
		},
	}
	f := c.Flags()
	setting(f, "addr", "", "server.addr", "`address` of the public API")
	setting(f, "admin-addr", "", "server.admin_addr", "`address` of the admin API, loopback only; off for none")
	setting(f, "grpc-addr", "", "server.grpc_addr", "`address` of the Open Inference Protocol over gRPC; off for none")
	setting(f, "alias", "", "server.alias", "the model's `name` in the API")
	shapeFlag(c, &shape)
	f.BoolVar(&takeOver, "take-over", false, "take the listeners of the running host with this address, if there is one, which then ends")
	f.BoolVar(&pprof, "pprof", false, "serve Go's profiles on the admin API")
	modelFlags(c)
	return c
}

// runServe opens what a server needs, in the order in which it is closed again in reverse, and serves.
func (a *app) runServe(c *cobra.Command, shape string, takeOver, pprof bool) (err error) {
	// Before anything takes time: one that comes early is kept.
	hangups, successions := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	signal.Notify(successions, syscall.SIGUSR2)
	defer signal.Stop(hangups)
	defer signal.Stop(successions)
	a.recent = new(logging.Ring)
	cfg, err := a.load(c)
	if err != nil {
		return err
	}
	if err := keepNoCores(); err != nil {
		return fmt.Errorf("limit core dumps: %w", err)
	}
	if err := a.useShape(c.Context(), &cfg, shape); err != nil {
		return err
	}
	before, err := predecessor(cfg, takeOver)
	if err != nil {
		return err
	}
	defer before.Close()
	trail := a.openTrail(cfg)
	defer func() { trail.close(err) }() // after all that it records
	state, err := server.OpenState(cfg, a.logger(cfg))
	if err != nil {
		return err
	}
	defer closeInto(&err, state.Close)
	inst, err := a.openTelling(c.Context(), cfg, false, trail.event)
	if err != nil {
		return err
	}
	defer closeInto(&err, inst.Close)
	trail.started(cfg, inst)
	opts := append(trail.options(), server.Version(version), server.State(state), server.RecentLog(a.recent.Bytes), server.Reloadable(func() (config.Config, error) { return a.again(c, cfg) }))
	if pprof {
		opts = append(opts, server.Pprof())
	}
	return a.serveInstance(c.Context(), inst, before, opts, hangups, successions)
}

// serveInstance binds the addresses, or takes them from the host before, and serves until ctx ends or a successor has them.
func (a *app) serveInstance(ctx context.Context, inst *instance.Instance, before *former, opts []server.Option, hangups, successions chan os.Signal) (err error) {
	cfg := inst.Config
	taken, err := before.take()
	if err != nil {
		return err
	}
	srv, err := server.New(inst, cfg, inst.Log, append(opts, server.Inherited(taken))...)
	if err != nil {
		return err
	}
	defer closeInto(&err, srv.Close)
	offer, err := a.offer(cfg, srv, inst.Log)
	if err != nil {
		return err
	}
	defer closeInto(&err, offer.Close)
	if err := a.announce(ctx, inst, srv.Addr(), srv.AdminAddr(), srv.GRPCAddr()); err != nil {
		return err
	}
	defer onEach(hangups, srv.Reload)()
	defer onEach(successions, func(context.Context) { succeed(inst.Log) })()
	defer leaveWhen(offer.Taken(), srv)()
	tellSystem(inst.Log) // before the former one may end
	before.serving(inst.Log)
	return srv.Run(ctx)
}

// announce tells a newcomer what runs and what to type next.
func (a *app) announce(ctx context.Context, inst *instance.Instance, addr, admin, grpc string) error {
	var b bytes.Buffer
	base := scheme(inst.Config) + reachable(addr)
	fmt.Fprintf(&b, "pimoe %s serves %s on %s", version, inst.ID, base)
	if admin != "" {
		fmt.Fprintf(&b, " (admin http://%s)", reachable(admin))
	}
	if grpc != "" {
		fmt.Fprintf(&b, " (gRPC %s)", reachable(grpc))
	}
	b.WriteString("\n\n")
	r := inst.Host.RouterStatus()
	rows := [][]string{{"router " + r.Name, pid(r.PID), r.State, "-", "-"}}
	for _, s := range inst.Host.Status() {
		rows = append(rows, []string{"experts " + replicaName(s), pid(s.PID), s.State, s.Backend, s.NumericClass})
	}
	if err := table.Write(&b, []string{"PROCESS", "PID", "STATE", "BACKEND", "CLASS"}, rows); err != nil {
		return err
	}
	_, err := inst.Tokenizer.Chat()
	fmt.Fprintf(&b, "\nTry:\n  %s\n", curl(base, inst.ID, err == nil, a.keyText(inst)))
	_, err = io.Copy(a.out, &b)
	return err
}

// replicaName is the group's name, with a number where there are several replicas.
func replicaName(s host.Status) string {
	if s.Replica == 0 {
		return s.Group
	}
	return s.Group + "/" + strconv.Itoa(s.Replica)
}

// pid is "-" for what runs in this process or not at all.
func pid(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// scheme is what the public listener of a configuration speaks.
func scheme(cfg config.Config) string {
	if cfg.Server.TLS.On() {
		return "https://"
	}
	return "http://"
}

// reachable is an address that a client on this machine can use for a listener.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return addr
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// keyText is how a shell gets at the API key; empty without one. The key itself is never printed.
func (a *app) keyText(inst *instance.Instance) string {
	if inst.Config.APIKey == "" {
		return ""
	}
	for _, e := range a.environ {
		if path, ok := strings.CutPrefix(e, "PIMOE_API_KEY_FILE="); ok && path != "" {
			return "$(cat " + quote(path) + ")"
		}
	}
	return "$PIMOE_API_KEY"
}

// curl is a command line that asks the server for a story.
func curl(base, model string, chat bool, key string) string {
	type request struct {
		Model     string    `json:"model"`
		Prompt    string    `json:"prompt,omitempty"`
		Messages  []message `json:"messages,omitempty"`
		MaxTokens int       `json:"max_tokens"`
	}
	path, body := "/v1/completions", request{Model: model, Prompt: "Once upon a time", MaxTokens: 64}
	if chat {
		path = "/v1/chat/completions"
		body = request{Model: model, Messages: []message{{"user", "Tell me a story about a fox and a lamp."}}, MaxTokens: 256}
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic("pimoe: text does not become JSON")
	}
	auth := ""
	if key != "" {
		auth = ` -H "Authorization: Bearer ` + key + `"`
	}
	return "curl -sS " + base + path + auth + " -H 'Content-Type: application/json' -d " + quote(string(b))
}

// quote makes one word of a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
