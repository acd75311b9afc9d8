package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
)

// mutant is a file with one small bug.
type mutant struct {
	target   *target
	file     string
	source   []byte
	from, to int    // bytes of the source that are replaced
	by       string // what stands there instead
	function string
	line     string // where it is, in the code's own words
	nth      int    // of the mutants of one line with the same change
}

// name says what the bug is, and survives changes elsewhere in the file: it has no line number.
func (m mutant) name() string {
	was := strings.Join(strings.Fields(string(m.source[m.from:m.to])), " ")
	if len(was) > 60 {
		was = was[:60] + "..."
	}
	by := strings.Join(strings.Fields(m.by), " ")
	if by == "" {
		by = "(nothing)"
	}
	n := ""
	if m.nth > 0 {
		n = fmt.Sprintf(" #%d", m.nth+1)
	}
	return fmt.Sprintf("%s %s: %s -> %s in: %s%s", m.file, m.function, was, by, m.line, n)
}

func (m mutant) text() []byte {
	return slices.Concat(m.source[:m.from], []byte(m.by), m.source[m.to:])
}

// mutants are all bugs that the tool can make in the target, in the order of the code.
func (t *target) mutants() ([]mutant, error) {
	var all []mutant
	for _, file := range t.files {
		source, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		found, err := mutate(t, file, source)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func mutate(t *target, file string, source []byte) ([]mutant, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	v := &visitor{base: mutant{target: t, file: file, source: source}, fset: fset, seen: map[string]int{}}
	for _, d := range tree.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Body != nil && (len(t.only) == 0 || slices.Contains(t.only, d.Name.Name)) {
				v.base.function = d.Name.Name
				ast.Inspect(d.Body, v.visit)
			}
		case *ast.GenDecl:
			if d.Tok == token.CONST && len(t.only) == 0 {
				v.base.function = "const"
				ast.Inspect(d, v.visit)
			}
		}
	}
	return v.found, nil
}

type visitor struct {
	base  mutant
	fset  *token.FileSet
	seen  map[string]int
	found []mutant
}

// add makes a mutant that has by in the place of the bytes between two positions.
func (v *visitor) add(from, to token.Pos, by string) {
	m := v.base
	m.from, m.to, m.by = v.fset.Position(from).Offset, v.fset.Position(to).Offset, by
	start, end := m.from, m.from
	for start > 0 && m.source[start-1] != '\n' {
		start--
	}
	for end < len(m.source) && m.source[end] != '\n' {
		end++
	}
	m.line = strings.Join(strings.Fields(string(m.source[start:end])), " ")
	key := m.name()
	m.nth = v.seen[key]
	v.seen[key]++
	v.found = append(v.found, m)
}

// swaps are operators and what a slip of the hand makes of them.
var swaps = map[token.Token][]string{
	token.EQL: {"!="}, token.NEQ: {"=="},
	token.LSS: {"<=", ">="}, token.LEQ: {"<", ">"}, token.GTR: {">=", "<="}, token.GEQ: {">", "<"},
	token.LAND: {"||"}, token.LOR: {"&&"},
	token.ADD: {"-"}, token.SUB: {"+"}, token.MUL: {"/"}, token.QUO: {"*"}, token.SHL: {">>"},
}

func (v *visitor) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		for _, by := range swaps[n.Op] {
			v.add(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), by)
		}
	case *ast.IncDecStmt:
		v.add(n.TokPos, n.TokPos+2, map[token.Token]string{token.INC: "--", token.DEC: "++"}[n.Tok])
	case *ast.BasicLit:
		if i, err := strconv.Atoi(n.Value); err == nil && n.Kind == token.INT {
			by := i + 1
			if i >= 10 { // a few percent more are a matter of taste
				by = 3 * i
			}
			v.add(n.Pos(), n.End(), strconv.Itoa(by))
		}
	case *ast.IfStmt: // a condition that is never met; the opposite is what swapped operators make
		v.add(n.Cond.Pos(), n.Cond.End(), "false && ("+v.code(n.Cond)+")")
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			v.add(n.OpPos, n.OpPos+1, "")
		}
	case *ast.ExprStmt: // a call that is forgotten, such as broadcast or giveBack
		if call, ok := n.X.(*ast.CallExpr); ok && !v.says(call) {
			v.add(n.Pos(), n.End(), "")
		}
	case *ast.DeferStmt:
		if !strings.HasSuffix(v.code(n.Call.Fun), "Unlock") {
			v.add(n.Pos(), n.End(), "")
		}
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE && len(n.Lhs) == 1 {
			if _, field := n.Lhs[0].(*ast.SelectorExpr); field {
				v.add(n.Pos(), n.End(), "_ = "+v.code(n.Rhs[0]))
			}
		}
	case *ast.ReturnStmt:
		if len(n.Results) == 1 {
			switch code := v.code(n.Results[0]); code {
			case "true":
				v.add(n.Results[0].Pos(), n.Results[0].End(), "false")
			case "false":
				v.add(n.Results[0].Pos(), n.Results[0].End(), "true")
			}
		}
	case *ast.BranchStmt:
		if n.Label == nil && n.Tok == token.CONTINUE {
			v.add(n.Pos(), n.End(), "")
		}
	}
	return true
}

// says reports whether a call only tells people something, or takes or gives back a lock: without the one nothing breaks, and
// without the other everything at once.
func (v *visitor) says(call *ast.CallExpr) bool {
	code := v.code(call.Fun)
	return strings.Contains(code, ".log.") || strings.HasSuffix(code, "Lock") || strings.HasSuffix(code, "Unlock") || strings.HasSuffix(code, ".Inc")
}

func (v *visitor) code(n ast.Node) string {
	return string(v.base.source[v.fset.Position(n.Pos()).Offset:v.fset.Position(n.End()).Offset])
}
