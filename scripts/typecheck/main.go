// Command typecheck type-checks all packages of a module, tests included, for other systems: `typecheck DIR GOOS/GOARCH...`. It reads
// the sources of everything that they import and compiles nothing, which takes seconds where `go vet` takes minutes: that
// compiles each dependency for each system first.
//
// `make test` runs it. What only a compiler or a linker sees, such as a function without a body, is left to them: `make cross`.
//
// Exit codes: 0 all is well, 1 something does not type-check, 2 the arguments are wrong or the go command failed.
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: typecheck DIR GOOS/GOARCH...")
		os.Exit(2)
	}
	code := 0
	for _, target := range os.Args[2:] {
		system, arch, ok := strings.Cut(target, "/")
		if !ok {
			fmt.Fprintf(os.Stderr, "typecheck: %q: want GOOS/GOARCH\n", target)
			os.Exit(2)
		}
		n, bad, err := check(os.Args[1], system, arch)
		if err != nil {
			fmt.Fprintf(os.Stderr, "typecheck: %s: %v\n", target, err)
			os.Exit(2)
		}
		fmt.Printf("%s: %d packages, %d errors\n", target, n, bad)
		if bad > 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// check prints the errors of the module's packages and counts both.
func check(dir, system, arch string) (n, bad int, err error) {
	list, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps |
			packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedTypesSizes | packages.NeedModule,
		Tests: true,
		Dir:   dir,
		Env:   append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0"),
	}, "./...")
	if err != nil {
		return 0, 0, err
	}
	if len(list) == 0 {
		return 0, 0, fmt.Errorf("no packages below %s", dir)
	}
	return len(list), packages.PrintErrors(list), nil
}
