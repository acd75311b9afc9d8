package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Version names what shapes the answers of this instance, in two parts: fixed stays as long as the host runs, and now is
// host.Version, which follows swaps; it is empty while a canary is under way. Instances of equal versions, in hosts of one
// build, give the same answer to the same request.
func (i *Instance) Version() (fixed, now string) { return i.version, i.Host.Version() }

// fixedVersion digests the model, the arithmetic of the trunk, what the context is limited to, and which units sit where
// under which policy. A reload changes none of it.
func (i *Instance) fixedVersion() string {
	c, h := i.Config, sha256.New()
	fmt.Fprintf(h, "%q trunk=%q %q kv=%q context=%d policy=%q;", i.Digest, c.Trunk.Backend, c.Trunk.Precision, c.KVCache.DType, i.Engine.Context(), c.Policy)
	for _, p := range i.plans {
		fmt.Fprintf(h, "%q %v %q;", p.Name, p.Units, p.Policy)
	}
	return hex.EncodeToString(h.Sum(nil))
}
