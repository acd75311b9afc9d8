package model_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
)

// BenchmarkPrefill and BenchmarkDecode are the embedded model with experts in this process.
func BenchmarkPrefill(b *testing.B) {
	for _, n := range []int{64, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRig(b, coretest.PimoeTiny(b), rigOptions{threads: 2})
			span := model.Span{Pages: r.sequence(n), Tokens: randomTokens(rand.New(rand.NewPCG(1, 1)), n, r.cfg.Vocab), Logits: true}
			b.ReportAllocs()
			for b.Loop() {
				r.forward(span)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, parallel := range []int{1, 8} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			const context = 256
			r := newRig(b, coretest.PimoeTiny(b), rigOptions{threads: 2})
			var spans []model.Span
			for i := range parallel {
				ids := randomTokens(rand.New(rand.NewPCG(1, uint64(i))), context, r.cfg.Vocab)
				pages := r.sequence(context + 1)
				r.forward(model.Span{Pages: pages, Tokens: ids})
				spans = append(spans, model.Span{Pages: pages, Start: context, Tokens: ids[:1], Logits: true})
			}
			b.ReportAllocs()
			for b.Loop() {
				r.forward(spans...)
			}
			b.ReportMetric(float64(parallel)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
