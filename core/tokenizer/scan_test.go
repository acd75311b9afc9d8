package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

// TestScannersEqualTheirExpressions holds every hand-written scanner to the regular expression it replaces.
func TestScannersEqualTheirExpressions(t *testing.T) {
	var texts []string
	for _, name := range subfolders(t, "tokenizers") {
		var g goldenTokenizer
		coretest.ReadJSON(t, coretest.Golden(t, "tokenizers", name, "golden.json"), &g)
		for _, c := range g.Cases {
			texts = append(texts, *c.Text)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		texts = append(texts, oddText(r))
	}
	for expr := range scanners {
		p, err := compilePattern(expr)
		if err != nil {
			t.Fatal(err)
		}
		if p.scan == nil {
			t.Fatalf("no scanner for %q", expr)
		}
		for _, text := range texts {
			if got, want := p.scan.spans(text), p.regexSpans(text); !slices.Equal(got, want) {
				t.Errorf("%q on %q\n got %v\nwant %v", expr, text, got, want)
				break
			}
		}
	}
}

// TestFamiliesUseScanners: the files of the known families must not fall back to the slow way unseen.
func TestFamiliesUseScanners(t *testing.T) {
	for _, name := range subfolders(t, "tokenizers") {
		tok := load(t, coretest.Golden(t, "tokenizers", name))
		var check func(p preTokenizer)
		check = func(p preTokenizer) {
			switch p := p.(type) {
			case preSequence:
				for _, q := range p {
					check(q)
				}
			case splitter:
				if p.pattern != nil && p.pattern.re != nil && p.pattern.scan == nil {
					t.Errorf("%s: no scanner", name)
				}
			}
		}
		check(tok.pre)
	}
}

// oddParts are the characters at which the expressions part ways.
var oddParts = strings.Split("a|b|Z|S|\u017f|\u212a|'|'s|'S|'\u017f|'ll|'LL|'Re|'m|'d|'t|'ve|'v|'l|'r| |  |\n|\r|\r\n|\t|\v|\f|\u0085|\u00a0|\u3000|\u2028|\u200b|\u200d|1|23|4567|\u00bd|\u216b|\u0663|\u00e9|e\u0301|\u0301|\u0b47\u0b3e|\u01c5|\u02b0|\u4f60|\u3072|\u30ab|\U00020bb7|\U0001f469|\u0627|\u094d|_|\u203f|-|!|/|//|\u3002|+|$|\u20ac|\x00|\x7f|\ue000|\u0378|ABC|abc|\u0130|\ufffd", "|")

func oddText(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(12) {
		b.WriteString(oddParts[r.IntN(len(oddParts))])
	}
	return b.String()
}
