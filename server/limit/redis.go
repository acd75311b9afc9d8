package limit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/redisdb"
)

// Redis are buckets in a Redis that several hosts share, one script for each decision. Redis' clock counts, so that those of
// the hosts may differ.
type Redis struct{ db evaluator }

// evaluator is what is needed of a *redisdb.DB; it bounds the time of a call.
type evaluator interface {
	Eval(ctx context.Context, s *redisdb.Script, keys []string, args ...any) (any, error)
}

// NewRedis makes the buckets of a Redis; its owner closes it, after the Limiter's last use.
func NewRedis(db evaluator) *Redis { return &Redis{db} }

// gcra is gcra.go for Redis, in microseconds. ARGV: take or move, the period, the most debt, and what to add to each key.
// What is no time that can be true is no bucket: somebody has written there. It answers with the wait and each bucket's debt.
var gcra = redisdb.NewScript(`
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local period, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local full, wait = {}, 0
for i, key in ipairs(KEYS) do
  local v = redis.pcall('GET', key)
  local f = type(v) == 'string' and tonumber(v)
  if not f or not (f >= now and f <= now + most) then f = now end
  full[i] = f
  wait = math.max(wait, f + ARGV[3 + i] - now - period)
end
local answer = {0}
if ARGV[1] == 'take' and wait > 0 then answer[1] = math.ceil(wait) end
for i, key in ipairs(KEYS) do
  if answer[1] == 0 then
    full[i] = math.min(full[i] + ARGV[3 + i], now + most)
    if full[i] <= now then
      redis.call('DEL', key)
    else
      redis.call('SET', key, string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000))
    end
  end
  answer[1 + i] = math.max(math.ceil(full[i] - now), 0)
end
return answer
`)

// Take implements Shared.
func (r *Redis) Take(ctx context.Context, cells []Cell) (time.Duration, []Window, error) {
	debts, err := r.run(ctx, "take", cells)
	if err != nil {
		return 0, nil, err
	}
	windows := make([]Window, len(cells))
	for i, c := range cells {
		d := debts[1+i]
		windows[i] = Window{c.Kind, c.Limit, left(time.Time{}.Add(d), time.Time{}, c.Limit), d}
	}
	return debts[0], windows, nil
}

// Move implements Shared. What can't be moved is lost: the next decisions are made without it.
func (r *Redis) Move(ctx context.Context, cells []Cell) { _, _ = r.run(ctx, "move", cells) }

// run answers with the wait and each bucket's debt, all of them in the range that the script can give.
func (r *Redis) run(ctx context.Context, mode string, cells []Cell) ([]time.Duration, error) {
	keys, args := make([]string, len(cells)), []any{mode, Period.Microseconds(), mostDebt.Microseconds()}
	for i, c := range cells {
		sum := sha256.Sum256([]byte(c.Name)) // names hold what clients may have chosen
		keys[i] = "limit:" + hex.EncodeToString(sum[:16])
		d := cost(max(c.N, -c.N), c.Limit).Microseconds()
		if c.N < 0 {
			d = -d
		}
		args = append(args, d)
	}
	said, err := r.db.Eval(ctx, gcra, keys, args...)
	if err != nil {
		return nil, err
	}
	list, ok := said.([]any)
	if !ok || len(list) != 1+len(cells) {
		return nil, fmt.Errorf("redis answers a limit with %T: %w", said, sdk.ErrInvalidOutput)
	}
	out := make([]time.Duration, len(list))
	for i, v := range list {
		n, ok := v.(int64)
		if !ok || n < 0 || n > 2*mostDebt.Microseconds() {
			return nil, fmt.Errorf("redis answers a limit with %v: %w", v, sdk.ErrInvalidOutput)
		}
		out[i] = time.Duration(n) * time.Microsecond
	}
	return out, nil
}

var _ Shared = (*Redis)(nil)
