package resilience

// budget bounds extra calls, so that they can't turn a slow moment into an outage: each success earns a share of one, and
// some may always be under way at once.
type budget struct {
	share  float64 // of an extra call that a success earns
	most   float64 // that are saved up
	floor  int     // extra calls at once that need nothing earned
	earned float64
	out    int // extra calls under way
}

func newBudget(share, most float64, floor int) budget {
	return budget{share: share, most: most, floor: floor, earned: most}
}

func (b *budget) earn() { b.earned = min(b.earned+b.share, b.most) }

// take asks for an extra call; whoever gets one gives it back.
func (b *budget) take() bool {
	switch {
	case b.earned >= 1:
		b.earned--
	case b.out >= b.floor:
		return false
	}
	b.out++
	return true
}

func (b *budget) giveBack() { b.out-- }
