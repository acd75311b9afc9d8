package jinja

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// TestLimits: whatever a template does, it ends, with an error that says why, and the process lives on.
func TestLimits(t *testing.T) {
	deep := strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000)
	share := "{% set ns = namespace(x=[]) %}{% for i in range(150) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
	for name, c := range map[string]struct{ source, want string }{
		"loops in loops":       {strings.Repeat("{% for i in range(100000) %}", 4) + strings.Repeat("{% endfor %}", 4), ""}, // steps, or time on a slow machine
		"loops with output":    {"{% for i in range(100000) %}{% for j in range(100000) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}", "bytes"},
		"range":                {"{{ range(10000000) }}", "Range too big"},
		"endless macro":        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "levels deep"},
		"endless pair":         {"{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", "levels deep"},
		"endless caller":       {"{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}", "levels deep"},
		"endless loop call":    {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "levels deep"},
		"long text":            {"{{ 'a' * 1000000000000 }}", "bytes"},
		"text in steps":        {"{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "bytes"},
		"text by concat":       {"{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "bytes"},
		"text by replace":      {"{% set x = 'a' * 4000000 %}{{ x | replace('a', x) }}", "bytes"},
		"text by join":         {"{% set x = 'a' * 4000000 %}{{ range(100000) | join(x) }}", "bytes"},
		"text by width":        {"{{ 'a'.center(1000000000000) }}", "bytes"},
		"text by format":       {"{{ '%999999999999d' % 1 }}", "bytes"},
		"text by block":        {"{% set x %}{% for i in range(100000) %}" + strings.Repeat("x", 1000) + "{% endfor %}{% endset %}", "bytes"},
		"long list":            {"{{ ([0] * 1000000000000) | length }}", "list of more than"},
		"list in steps":        {"{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", ""},
		"work":                 {"{% set x = 'a' * 8000000 %}{% for i in range(100000) %}{% if 'b' in x %}{% endif %}{% endfor %}", "bytes of work"},
		"large integer":        {"{{ 10 ** 100000000 }}", "integer of more than"},
		"integer in steps":     {"{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}", "integer of more than"},
		"nested value":         {"{% set ns = namespace(x=[]) %}{% for i in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "levels deep"},
		"nested value as JSON": {"{% set ns = namespace(x=[]) %}{% for i in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}", "levels deep"},
		"shared value":         {share + "{{ ns.x }}", "bytes"},
		"shared value as JSON": {share + "{{ ns.x | tojson }}", "bytes"},
		"shared values equal":  {share + "{% set a = ns.x %}" + share + "{{ a == ns.x }}", "steps"},
		"shared values sorted": {share + "{% set a = ns.x %}" + share + "{{ [a, ns.x] | sort | length }}", "steps"},
		"namespace in itself":  {"{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", "levels deep"},
		"parentheses":          {"{{ " + deep + " }}", "levels deep"},
		"nots":                 {"{{ " + strings.Repeat("not ", 100000) + "1 }}", "levels deep"},
		"minuses":              {"{{ " + strings.Repeat("-", 100000) + "1 }}", "levels deep"},
		"ifs":                  {strings.Repeat("{% if 1 %}", 50000), "levels deep"},
		"inline ifs":           {"{{ " + strings.Repeat("1 if 0 else ", 50000) + "1 }}", "levels deep"},
		"sums":                 {"{{ 1" + strings.Repeat("+1", 100000) + " }}", "levels deep"},
		"filters":              {"{{ 1" + strings.Repeat("|abs", 100000) + " }}", "levels deep"},
		"attributes":           {"{{ {}" + strings.Repeat(".a", 100000) + " }}", "levels deep"},
		"source":               {strings.Repeat("x", MaxSource+1), "template of"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			got, err := render(c.source, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %d bytes, error %.200v, want %q", len(got), err, c.want)
			}
			if !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrDeadline) {
				t.Errorf("%v is of no class", err)
			}
			if d := time.Since(begin); d > 4*MaxTime {
				t.Errorf("took %v", d)
			}
		})
	}
}

// TestContextEndsRendering: a caller that goes away ends the work.
func TestContextEndsRendering(t *testing.T) {
	p, err := Parse(strings.Repeat("{% for i in range(100000) %}", 3) + strings.Repeat("{% endfor %}", 3))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = p.Render(ctx, nil, time.Now())
	if !errors.Is(err, context.Canceled) || !errors.Is(err, sdk.ErrDeadline) {
		t.Errorf("got %v", err)
	}
}

// TestSandbox: nothing reaches out of the template, and what is not known is refused by name.
func TestSandbox(t *testing.T) {
	for source, want := range map[string]string{
		"{% include 'x' %}":                       `tag "include"`,
		"{% include '/etc/passwd' %}":             `tag "include"`,
		"{% import 'x' as y %}":                   `tag "import"`,
		"{% from 'x' import y %}":                 `tag "from"`,
		"{% extends 'x' %}":                       `tag "extends"`,
		"{% block x %}{% endblock %}":             `tag "block"`,
		"{% do x %}":                              `tag "do"`,
		"{{ 1 | random }}":                        `filter "random"`,
		"{% if false %}{{ 1 | nope }}{% endif %}": `filter "nope"`,
		"{{ 1 is nope }}":                         `test "nope"`,
		"{{ [1] | map('nope') | list }}":          `filter "nope"`,
		"{{ [1] | select('nope') | list }}":       `test "nope"`,
	} {
		_, err := render(source, nil)
		if !errors.Is(err, sdk.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want unsupported %s", source, err, want)
		}
	}
	for _, source := range []string{
		"{{ ''.__class__.__mro__ }}", "{{ [].append(1) }}", "{{ {}.update({}) }}", "{{ x.append(1) }}", "{{ range.__globals__.x }}",
		"{% set x.a = 1 %}", "{{ ().__class__.__base__.__subclasses__() }}",
	} {
		if got, err := render(source, map[string]Value{"x": NewList()}); err == nil {
			t.Errorf("%s: %q", source, got)
		}
	}
}

// TestErrorsNameTheLine and keep what a template raises.
func TestErrorsNameTheLine(t *testing.T) {
	_, err := render("a\n\n{{ raise_exception('Roles must alternate!') }}", nil)
	var e *Error
	if !errors.As(err, &e) || e.Line != 3 || e.Text != "Roles must alternate!" || !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("got %#v", err)
	}
	if _, err = render("a\n{{ 1 +\n }}", nil); !errors.As(err, &e) || e.Line != 3 {
		t.Errorf("got %v", err)
	}
	if _, err = render("{% for x in [1] %}\n\n{{ x.y.z }}{% endfor %}", nil); !errors.As(err, &e) || e.Line != 3 {
		t.Errorf("got %v", err)
	}
}

func TestStrftime(t *testing.T) {
	p, err := Parse("{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %a %A %j %-d %e %y %p %I %%') }}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Render(context.Background(), nil, time.Date(2026, 2, 3, 14, 5, 6, 0, time.UTC))
	if want := "2026-02-03 14:05:06 03 Feb February Tue Tuesday 034 3  3 26 PM 02 %"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := render("{{ strftime_now('%Q') }}", nil); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

// TestTemplateIsShared: renderings at the same time don't see each other's state.
func TestTemplateIsShared(t *testing.T) {
	p, err := Parse("{% set ns = namespace(n=0) %}{% macro f(x) %}<{{ x }}>{% endmacro %}{% for i in range(200) %}{% set ns.n = ns.n + me %}{{ f(i) if i == me }}{% endfor %}{{ ns.n }}")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for me := range int64(8) {
		wg.Go(func() {
			got, err := p.Render(context.Background(), map[string]Value{"me": me}, time.Now())
			if want := "<" + string(rune('0'+me)) + ">"; err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{
		"{% for m in messages %}{{ m.role }}{% endfor %}", "{%- macro a(b, c=1) -%}{{ b ~ c }}{% endmacro %}{{ a(1) | upper }}",
		"{% set x = [1, {'a': none}] %}{{ x | tojson(indent=2) }}", "{{ 'a%sb' % 1 }}{{ '{:>5}'.format('x') }}{# c #}{% raw %}{{{% endraw %}",
		"{{ messages[::-1][0]['content'].split(' ')[-1] | trim }}", "{% if a is defined and not b %}{% elif 1 in [1] %}{% else %}{% endif %}",
	} {
		f.Add(s)
	}
	vars := readVars(f, []byte(`{"messages":[{"role":"user","content":"a b"}],"a":1,"b":[1,2.5,null,"x"],"c":{"d":"e"}}`))
	f.Fuzz(func(t *testing.T, source string) {
		if strings.Contains(source, "for") && len(source) > 300 || len(source) > 2000 {
			return // the limits have tests of their own; here they only cost time
		}
		p, err := Parse(source)
		if err != nil {
			if !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
				t.Errorf("%v is of no class", err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if out, err := p.Render(ctx, vars, time.Now()); err == nil && len(out) > MaxOutput {
			t.Errorf("%d bytes", len(out))
		}
	})
}
