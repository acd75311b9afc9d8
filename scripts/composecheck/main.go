// Command composecheck holds files of docker compose against the compose specification, by the library that compose itself
// reads them with. `make composecheck` and CI run it. It refuses files with a field that compose does not know, a service
// that names what there is not, and images without a version.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "composecheck: want files of compose")
		os.Exit(2)
	}
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "composecheck: %s: %v\n", file, err)
			os.Exit(1)
		}
	}
}

// check loads a file with all of its profiles.
func check(file string) error {
	opts, err := cli.NewProjectOptions([]string{file}, cli.WithProfiles([]string{"*"}), cli.WithConsistency(true), cli.WithInterpolation(true))
	if err != nil {
		return err
	}
	project, err := opts.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for name, s := range project.Services {
		if _, version, ok := strings.Cut(s.Image[strings.LastIndex(s.Image, "/")+1:], ":"); !ok || version == "" {
			return fmt.Errorf("service %s: image %q has no version", name, s.Image)
		}
	}
	fmt.Printf("%s: %d services, %d volumes, %d networks, %d secrets\n", file, len(project.Services), len(project.Volumes), len(project.Networks), len(project.Secrets))
	return nil
}
