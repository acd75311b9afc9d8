package client_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/sdk/client"
)

// BenchmarkStart is a plugin's start up to its handshake and its end, confined and not. The difference is the cost of
// confinement; docs/operations.md has the figures.
func BenchmarkStart(b *testing.B) {
	for name, off := range map[string]bool{"confined": false, "plain": true} {
		b.Run(name, func(b *testing.B) {
			confinement := client.NewConfinement(client.ConfinementOptions{Off: off})
			defer confinement.Close()
			c := client.Command{
				Path: filepath.Join(bin, "expert-swiglu"), RuntimeDir: runtimeDir(b), Identity: identity(),
				Plane: client.ExpertPlane(16, hidden, 2), Confinement: confinement,
			}
			for b.Loop() {
				p, err := client.Start(b.Context(), c)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				p.Kill()
				p.Stop(context.Background())
				b.StartTimer()
			}
		})
	}
}
