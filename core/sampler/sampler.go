// Package sampler chooses the next token from a row of logits: penalties, temperature, top-k, top-p, min-p and a
// seeded draw. core/engine uses it, one Sampler for each request; its random numbers live in the host, so that a
// repeated expert call never changes an answer.
//
// It is a pure function of its state and refuses to know about tokens' texts, models and time.
package sampler

// Params are the sampling settings of one request. The zero value is greedy decoding.
type Params struct {
	Temperature       float32 // 0 = greedy
	TopK              int     // keep the k most probable; 0 = all
	TopP              float32 // nucleus (Holtzman et al. 2020); 0 or 1 = all
	MinP              float32 // drop tokens below MinP x the best probability; 0 = none
	RepetitionPenalty float32 // CTRL's rule over prompt and continuation; 0 or 1 = none
	FrequencyPenalty  float32 // OpenAI's rule over the continuation: subtracted per occurrence
	PresencePenalty   float32 // OpenAI's rule over the continuation: subtracted once
	Seed              uint64  // with Seeded: the draw is a function of (Seed, logits, step)
	Seeded            bool    // false = the caller's entropy is used as the seed
	LogitBias         map[int32]float32
}
