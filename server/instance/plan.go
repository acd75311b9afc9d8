package instance

import (
	"fmt"
	"io/fs"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
)

// planOf splits a checkpoint folder into trunk and experts by its own config.json.
func planOf(dir fs.FS) func(*weights.Checkpoint) (weights.Plan, error) {
	return func(ck *weights.Checkpoint) (weights.Plan, error) {
		cfg, err := model.ReadConfigFS(dir)
		if err != nil {
			return weights.Plan{}, err
		}
		plan, err := cfg.Plan(ck)
		if err != nil {
			return weights.Plan{}, fmt.Errorf("checkpoint does not fit its config.json: %w", err)
		}
		return plan, nil
	}
}
