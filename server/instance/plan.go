package instance

import (
	"fmt"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
)

// plan splits a checkpoint into trunk and experts by its own config.json.
func plan(ck *weights.Checkpoint) (weights.Plan, error) {
	cfg, err := model.ReadConfig(ck.Dir())
	if err != nil {
		return weights.Plan{}, err
	}
	p, err := cfg.Plan(ck)
	if err != nil {
		return weights.Plan{}, fmt.Errorf("the checkpoint does not fit its config.json: %w", err)
	}
	return p, nil
}
