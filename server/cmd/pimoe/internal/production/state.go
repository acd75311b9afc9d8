package production

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/audit"
)

func auditLog(f *Facts) Verdict {
	path := f.Config.Audit.Path(f.Config.Home)
	if path == "" {
		return fail("changes are not recorded: audit.file is off", "leave audit.file out")
	}
	if f.Live != nil && !f.Live.Audit {
		return fail("the running host can't write "+path+": changes are refused", "give the disk room, or the host's user the right to write there")
	}
	rep, err := audit.Verify(path, "", true)
	var fault *audit.Fault
	switch {
	case errors.As(err, &fault):
		return fail("it is not as it was written: "+fault.Error(), "find out who changed it; keep the file; pimoe audit verify")
	case errors.Is(err, fs.ErrNotExist):
		return warn("there is no log yet: no server has run", "start the server once, then look again")
	case err != nil:
		return fail("it can't be read: "+err.Error(), "give this user the right to read "+path)
	}
	return ok(fmt.Sprintf("%d records, all as they were written", rep.Records))
}

func encryption(f *Facts) Verdict {
	if file := f.Config.Encryption.KeyFile; file != "" {
		if _, err := os.Stat(file); err != nil {
			return fail(err.Error(), "pimoe encryption new-key")
		}
		return ok("records are sealed with the first key of " + file)
	}
	if f.Config.State.Path(f.Config.Home) == "" && f.Config.Redis.URL == "" {
		return ok("nothing of requests is kept")
	}
	return warn("jobs and kept answers lie on the disk as they are: encryption.key_file is empty", "encryption.key_file on another disk than home; pimoe encryption new-key")
}

// secrets are files that nobody but the host's user should read.
func (f *Facts) secrets() []string {
	c := f.Config
	log := c.Audit.Path(c.Home)
	list := []string{c.Auth.KeysPath(c.Home), c.Encryption.KeyFile, c.Auth.JWT.SecretFile, c.Server.TLS.KeyFile, c.State.Path(c.Home), log}
	if log != "" {
		list = append(list, log+".key")
	}
	return list
}

func permissions(f *Facts) Verdict {
	st, err := os.Stat(f.Config.Home)
	if err != nil {
		return fail(err.Error(), "make the folder, or set home")
	}
	if st.Mode().Perm()&writable != 0 {
		return fail(fmt.Sprintf("others can write %s (%s)", f.Config.Home, st.Mode().Perm()), "chmod 700 "+f.Config.Home)
	}
	var wide []string
	for _, path := range f.secrets() {
		if path == "" {
			continue
		}
		if st, err := os.Stat(path); err == nil && st.Mode().Perm()&others != 0 {
			wide = append(wide, fmt.Sprintf("%s (%s)", path, st.Mode().Perm()))
		}
	}
	if len(wide) > 0 {
		return fail("others can read "+first(wide), "chmod 600")
	}
	return ok("home and secrets are the host's alone")
}

func logLevel(f *Facts) Verdict {
	if l := f.Config.Log.Level; l == "trace" || l == "debug" {
		return warn("log.level is "+l+": more is written than anybody reads, and more of what clients do", "log.level: info")
	}
	return ok("log.level is " + f.Config.Log.Level + "; texts of requests and answers are never logged")
}

func masking(f *Facts) Verdict {
	if have, all := len(f.Config.Log.Mask), len(config.Default().Log.Mask); have < all {
		return warn(fmt.Sprintf("only %d of %d kinds of personal data are masked in the log", have, all), "leave log.mask out")
	}
	return ok("personal data are masked")
}

func chaos(f *Facts) Verdict {
	if f.Config.Chaos.Enabled {
		return fail("admins may kill processes through the API: chaos.enabled", "take chaos.enabled away after the rehearsal")
	}
	return ok("off")
}

func profiles(f *Facts) Verdict {
	switch {
	case f.Live == nil:
		return warn("whether the host serves profiles could not be asked: "+f.NotLive, "run it beside the running host")
	case f.Live.Profiles:
		return warn("the host serves /debug/pprof", "start it without --pprof unless somebody is measuring")
	}
	return ok("off")
}

func guardedMetrics(f *Facts) Verdict {
	switch {
	case f.Live == nil:
		return warn("whether /metrics asks for a credential could not be asked: "+f.NotLive, "run it beside the running host")
	case f.Live.Open:
		return fail("/metrics on the public listener answers everybody", "set up credentials; the scope metrics is for what scrapes")
	}
	return ok("they ask for a credential")
}

func alerts(f *Facts) Verdict {
	const prometheus = ", or load the rules of deploy/monitoring into Prometheus"
	switch a := f.Config.Alerts; {
	case !a.Enabled:
		return warn("no rule is held against the host's metrics", "alerts.enabled: true"+prometheus)
	case a.Webhook.URL == "":
		return warn("alerts go to the log alone: nobody is told", "set alerts.webhook.url"+prometheus)
	}
	return ok("alerts go to the log and to the webhook")
}

func lastBackup(f *Facts) Verdict {
	const fix = "pimoe backup create FILE, each day, and the file to another machine"
	switch age := f.Now.Sub(f.Backup); {
	case f.Backup.IsZero():
		return fail("no backup of this home is known", fix)
	case age > 7*24*time.Hour:
		return fail("the last backup is of "+f.Backup.UTC().Format(time.DateOnly), fix)
	case age > 26*time.Hour: // a day, and the time that it takes
		return warn("the last backup is of "+f.Backup.UTC().Format(time.DateTime), fix)
	}
	return ok("made " + f.Backup.UTC().Format(time.DateTime))
}

func running(f *Facts) Verdict {
	switch {
	case f.Live == nil:
		return warn("no host could be asked: "+f.NotLive, "start it, then look again; with auth.admin: required name a key in PIMOE_ADMIN_KEY_FILE")
	case f.Live.Ready != "":
		return fail("it does not answer requests: "+f.Live.Ready, "pimoe experts; docs/troubleshoot.md")
	}
	var down []string
	for _, e := range f.Live.Experts {
		if e.Health == "quarantined" || e.Health == "down" {
			down = append(down, fmt.Sprintf("%s/%d is %s", e.Group, e.Replica, e.Health))
		}
	}
	if len(down) > 0 {
		return warn(first(down), "pimoe experts show GROUP")
	}
	return ok(fmt.Sprintf("ready, %d expert processes", len(f.Live.Experts)))
}

// homeDir is home, or the nearest folder above it that is there.
func homeDir(home string) string {
	for dir := home; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
	}
}
