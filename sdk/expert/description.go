package expert

import "github.com/pimoe/pimoe/sdk"

// Description is what an expert process on another machine says of itself. A host holds it against what it expects before
// the first call; the known-answer test then shows whether it is true.
type Description struct {
	Info                 sdk.Info // with the numeric class
	Model                string   // name in the process's own store, for people
	ModelDigest          string   // "sha256:..." of all files of the model
	Hidden, Intermediate int
	Activation           string
	Units                []Unit
	Shards               map[int]string // by expert: sha256 of the file that its weights were read from
	Zone                 string         // where the process runs; empty = not told
	Instance             string         // another one for each run of the process
	Program              string         // "sha256:..." of its executable
}
