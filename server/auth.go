package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/ws"
)

// rules is what every route of both listeners asks for: the one list. A server with a route that is not in it does not
// start. docs/secure.md has the same table, and a test compares them.
var rules = []access.Rule{
	{Route: "GET /health"},
	{Route: "GET /livez"},
	{Route: "GET /readyz"},
	{Route: "GET /startupz"},
	{Route: "GET " + access.LoginPath},
	{Route: "GET " + access.CallbackPath},
	{Route: "GET " + access.SessionPath, Role: access.Viewer, Scope: "session"},
	{Route: "POST " + access.LogoutPath, Role: access.Viewer, Scope: "session"},
	{Route: "GET /v1/models", Role: access.Viewer, Scope: "models"},
	{Route: "GET /v1/models/:model", Role: access.Viewer, Scope: "models"},
	{Route: "GET /docs", Role: access.Viewer, Scope: "docs"},
	{Route: "GET " + openapiPath, Role: access.Viewer, Scope: "docs"},
	{Route: "GET " + metricsPath, Role: access.Viewer, Scope: "metrics"},
	{Route: "GET /api/v1/stats", Role: access.Viewer, Scope: "stats"},
	{Route: "POST /v1/completions", Role: access.User, Scope: "generate"},
	{Route: "POST /v1/chat/completions", Role: access.User, Scope: "generate"},
	{Route: "POST " + embeddingsPath, Role: access.User, Scope: "generate"},
	{Route: "POST " + responsesPath, Role: access.User, Scope: "generate"},
	{Route: "POST " + processPath, Role: access.User, Scope: "generate"},
	{Route: "POST " + jobsPath, Role: access.User, Scope: "jobs"}, // and the right of the job's kind
	{Route: "GET " + jobsPath, Role: access.User, Scope: "jobs"},
	{Route: "GET " + jobPath, Role: access.User, Scope: "jobs"},
	{Route: "DELETE " + jobPath, Role: access.User, Scope: "jobs"},
	{Route: "GET " + jobPath + "/result", Role: access.User, Scope: "jobs"},
	{Route: "POST " + jobPath + "/cancel", Role: access.User, Scope: "jobs"},
	{Route: "GET " + socketPath}, // the first message may bring the credential
	{Route: "GET " + topicsPath, Role: access.Viewer, Scope: "topics"},
	{Route: "WS auth"},
	{Route: "WS ping"},
	{Route: "WS pong"},
	{Route: "WS process", Role: access.User, Scope: "generate"},
	{Route: "WS generate", Role: access.User, Scope: "generate"},
	{Route: "WS resume", Role: access.User, Scope: "generate"},
	{Route: "WS cancel", Role: access.User, Scope: "generate"},
	{Route: "WS subscribe", Role: access.Viewer, Scope: "topics"},
	{Route: "WS subscribe " + ws.SystemExperts, Role: access.Viewer, Scope: "experts"},
	{Route: "WS subscribe " + ws.SystemStats, Role: access.Viewer, Scope: "stats"},
	{Route: "WS unsubscribe", Role: access.Viewer, Scope: "topics"},
	{Route: "WS publish", Role: access.User, Scope: "topics"},
	{Route: "GET " + expertsPath, Role: access.Viewer, Scope: "experts"},
	{Route: "GET " + trialPath, Role: access.Viewer, Scope: "experts"},
	{Route: "GET " + rebalancePath, Role: access.Viewer, Scope: "experts"},
	{Route: "GET " + alertsPath, Role: access.Viewer, Scope: "alerts"},
	{Route: "GET " + configPath, Role: access.Operator, Scope: "config"},
	{Route: "POST " + reloadPath, Role: access.Operator, Scope: "config"},
	{Route: "POST " + releasePath, Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "swap", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "canary", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "shadow", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "promote", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "rollback", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + rebalancePath, Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "scale", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "attach", Role: access.Admin, Scope: "experts"}, // a process that the host neither starts nor confines
	{Route: "GET " + consolePath},
	{Route: "GET " + assetPath},
	{Route: "GET " + livePath, Role: access.Viewer, Scope: "live"}, // operators see more: seesProcesses
	{Route: "POST " + groupPath + "restart", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "drain", Role: access.Operator, Scope: "experts"},
	{Route: "POST " + groupPath + "chaos", Role: access.Admin, Scope: "chaos"},
	{Route: "GET " + profilesPath, Role: access.Admin, Scope: "profiles"},
	{Route: "GET " + keptPath, Role: access.Admin, Scope: "profiles"},
	{Route: "GET " + profilePath, Role: access.Admin, Scope: "profiles"},
	{Route: "GET " + bundlePath, Role: access.Admin, Scope: "debug"},
	{Route: "GET " + reportCostPath, Role: access.Operator, Scope: "reports"},
	{Route: "GET " + reportSizePath, Role: access.Operator, Scope: "reports"},
	{Route: "POST " + backupPath, Role: access.Admin, Scope: "backup"},
	{Route: "GET " + oipPath + "/health/live"},
	{Route: "GET " + oipPath + "/health/ready"},
	{Route: "GET " + oipPath, Role: access.Viewer, Scope: "models"},
	{Route: "POST " + oipIndexPath, Role: access.Viewer, Scope: "models"},
	{Route: "GET " + oipModel, Role: access.Viewer, Scope: "models"},
	{Route: "GET " + oipModel + "/ready", Role: access.Viewer, Scope: "models"},
	{Route: "POST " + oipModel + "/infer", Role: access.User, Scope: "generate"},
	{Route: "POST " + oipModel + "/generate", Role: access.User, Scope: "generate"},
	{Route: "POST " + oipModel + "/generate_stream", Role: access.User, Scope: "generate"},
	{Route: "GET " + oipVersion, Role: access.Viewer, Scope: "models"},
	{Route: "GET " + oipVersion + "/ready", Role: access.Viewer, Scope: "models"},
	{Route: "POST " + oipVersion + "/infer", Role: access.User, Scope: "generate"},
	{Route: "POST " + oipVersion + "/generate", Role: access.User, Scope: "generate"},
	{Route: "POST " + oipVersion + "/generate_stream", Role: access.User, Scope: "generate"},
	{Route: grpcMethod + " " + inferenceService + "ServerLive"},
	{Route: grpcMethod + " " + inferenceService + "ServerReady"},
	{Route: grpcMethod + " " + healthService + "Check"},
	{Route: grpcMethod + " " + healthService + "Watch"},
	{Route: grpcMethod + " " + inferenceService + "ServerMetadata", Role: access.Viewer, Scope: "models"},
	{Route: grpcMethod + " " + inferenceService + "ModelReady", Role: access.Viewer, Scope: "models"},
	{Route: grpcMethod + " " + inferenceService + "ModelMetadata", Role: access.Viewer, Scope: "models"},
	{Route: grpcMethod + " " + inferenceService + "RepositoryIndex", Role: access.Viewer, Scope: "models"},
	{Route: grpcMethod + " " + inferenceService + "ModelInfer", Role: access.User, Scope: "generate"},
	{Route: grpcMethod + " " + inferenceService + "ModelStreamInfer", Role: access.User, Scope: "generate"},
}

// profilesPath stands for all profiles of the option Pprof.
const profilesPath = "/debug/pprof/*"

// Rules is the table of rules, for the command's help and for checks.
func Rules() (*access.Table, error) { return access.NewTable(rules) }

// anonymity is which principal a listener makes of a request without a credential.
type anonymity int

const (
	nobody  anonymity = iota // a credential is asked for
	anyUser                  // the public listener while nothing is there to check a credential with
	anAdmin                  // the admin listener, which only this machine reaches, unless auth.admin asks for a credential
)

// principal is who a request is from. The admin listener judges a credential that is sent: it never makes more of one
// than it is.
func (s *Server) principal(ctx context.Context, c *fiber.Ctx, admin bool) (access.Principal, error) {
	return s.principalOf(ctx, s.credentials(c), admin)
}

// principalOf is principal for credentials from anywhere.
func (s *Server) principalOf(ctx context.Context, c access.Credentials, admin bool) (access.Principal, error) {
	p, err := s.guard.Authenticate(ctx, c)
	if !errors.Is(err, access.ErrMissing) {
		return p, err
	}
	switch s.anonymity(admin) {
	case anyUser:
		return access.Principal{ID: "anonymous", Kind: access.Anonymous, Tenant: access.DefaultTenant, Role: access.User}, nil
	case anAdmin:
		return access.Principal{ID: "local", Kind: access.Anonymous, Tenant: access.DefaultTenant, Role: access.Admin}, nil
	}
	return access.Principal{}, err
}

func (s *Server) anonymity(admin bool) anonymity {
	switch {
	case admin && s.cfg.Auth.Admin != "required":
		return anAdmin
	case !admin && !s.guard.Configured():
		return anyUser
	}
	return nobody
}

// credentials copies what may tell who a request is from.
func (s *Server) credentials(c *fiber.Ctx) access.Credentials {
	out := access.Credentials{
		Method: c.Method(), Origin: strings.Clone(c.Get(fiber.HeaderOrigin)), FetchSite: strings.Clone(c.Get("Sec-Fetch-Site")),
		CSRF: strings.Clone(c.Get("X-CSRF-Token")),
	}
	out.Certificate = certificateNames(c)
	for _, v := range c.Context().Request.Header.PeekAll(fiber.HeaderAuthorization) {
		out.Authorization = append(out.Authorization, string(v))
	}
	if name := s.guard.SessionCookie(); name != "" {
		out.Cookie = strings.Clone(c.Cookies(name))
	}
	return out
}

// authorise is the one check of every request that reaches a route.
func (x *exchange) authorise(c *fiber.Ctx) error {
	if x.route.rule.Open() {
		return nil
	}
	p, err := x.s.principal(x.ctx, c, x.route.admin)
	if err == nil && x.route.credential && p.Kind == access.Anonymous {
		err = access.ErrMissing
	}
	if err == nil {
		err = x.route.rule.Allow(p)
	}
	x.req.principal = p
	x.ctx = access.With(x.ctx, p)
	return err
}

// refusals is the table from access's classes to HTTP. What else an error says is for the log.
var refusals = []struct {
	class  error
	status int
	code   string
}{
	{access.ErrMissing, http.StatusUnauthorized, "missing_api_key"},
	{access.ErrExpired, http.StatusUnauthorized, "expired_credential"},
	{access.ErrInvalid, http.StatusUnauthorized, "invalid_api_key"},
	{access.ErrForbidden, http.StatusForbidden, "forbidden"},
	{access.ErrForgery, http.StatusForbidden, "cross_site_request"},
	{access.ErrUnknowable, http.StatusServiceUnavailable, "issuer_unavailable"},
}

// faultOfAccess is what a client may know of a refusal; nil for another error.
func faultOfAccess(err error) *fault {
	for _, r := range refusals {
		if errors.Is(err, r.class) {
			return &fault{status: r.status, code: r.code, message: r.class.Error(), retry: r.status == http.StatusServiceUnavailable}
		}
	}
	return nil
}

// newGuard opens what the configuration names.
func (s *Server) newGuard(cfg config.Config) (err error) {
	warn := func(msg string, args ...any) { s.log.Warn(msg, args...) }
	if s.guard, err = access.New(cfg, access.Options{Now: s.clock, Warn: warn}); err != nil {
		return fmt.Errorf("access: %w", err)
	}
	s.table, err = Rules()
	return err
}
