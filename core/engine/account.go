package engine

import "context"

// Account is told for whom rows are computed. Its methods are called by the decode loop, must not block and must not call the
// engine.
type Account interface {
	// Begin says that a step or a call of Hidden is computed from now on, End that it is over. In between nothing else begins.
	Begin()
	// Rows comes before End, once for each request that had rows in the step, also where the step has failed.
	Rows(tenant string, n int)
	End()
}

// callerKey is the context's key for For.
type callerKey struct{}

// For says for whom a call of Hidden is, in whose line it waits and who pays; a Request has fields for it.
func For(ctx context.Context, tenant string, p Priority) context.Context {
	return context.WithValue(ctx, callerKey{}, flowKey{tenant, p})
}

func callerOf(ctx context.Context) flowKey {
	key, _ := ctx.Value(callerKey{}).(flowKey)
	return key
}

// begin tells the account that a flight begins.
func (l *loop) begin() {
	if l.account != nil {
		l.account.Begin()
	}
}

// charge tells the account who was on a flight that is over.
func (l *loop) charge(f *flight) {
	if l.account == nil {
		return
	}
	for _, e := range f.entries {
		l.account.Rows(e.s.request.Tenant, e.n)
	}
	if j := f.job; j != nil {
		for _, part := range j.callers() {
			l.account.Rows(part.caller.tenant, part.input.Rows*len(part.layers))
		}
	}
	l.account.End()
}

// callers are the jobs that have a caller each: the job itself, or those that it joins.
func (j *job) callers() []*job {
	if j.parts != nil {
		return j.parts
	}
	return []*job{j}
}
