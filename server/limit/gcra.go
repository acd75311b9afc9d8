package limit

import "time"

// Period is the time in which a bucket fills: limits are so many a minute.
const Period = time.Minute

// MostLimit is the largest limit: beyond it the arithmetic of buckets would leave 64 bits.
const MostLimit = 100_000_000

// A bucket is one time, as in the generic cell rate algorithm (ITU-T I.371, appendix I, the virtual scheduling form): the moment
// at which it will be full again. What is taken moves this moment into the future, by the share of a period that it is of
// the limit; the bucket is empty when the moment is a period away.

// cost is how long a bucket of this limit needs to fill by n.
func cost(n, limit int64) time.Duration {
	return time.Duration(min(n, MostLimit) * int64(Period) / limit)
}

// debt is what has been taken from a bucket and not yet filled up again.
func debt(full, now time.Time) time.Duration { return max(full.Sub(now), 0) }

// wait is how long a bucket must fill before n can be taken; 0 = now. n is at most the limit.
func wait(full, now time.Time, n, limit int64) time.Duration {
	return max(debt(full, now)+cost(n, limit)-Period, 0)
}

// left is how many can be taken at once.
func left(full, now time.Time, limit int64) int64 {
	room := max(Period-debt(full, now), 0)
	return int64(room) * limit / int64(Period)
}

// move is the bucket after n were taken; n below 0 gives back.
func move(full, now time.Time, n, limit int64) time.Time {
	if full.Before(now) {
		full = now
	}
	if n < 0 {
		return full.Add(-cost(-n, limit))
	}
	// A debt of some periods is enough to stop anybody; more would outlast the mistake that made it.
	return earlier(full.Add(cost(n, limit)), now.Add(mostDebt))
}

// mostDebt bounds what a request that used more than it had reserved leaves to those after it.
const mostDebt = 5 * Period

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
