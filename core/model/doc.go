// Package model is the trunk of a language model: everything but its routed experts. It reads a checkpoint's
// config.json, plans how the checkpoint's tensors are split between trunk and experts, and computes embedding,
// attention over a paged cache, norms, gates and head. The routed experts are somebody else's moe.Block.
//
// An architecture is a row of data (arch.go), never a copy of code. core/engine calls a Trunk from its decode loop;
// core/host and core/weights use Config and Plan. The package refuses what it does not know by name: a model_type, a
// key of config.json, a tensor of the checkpoint. It knows nothing of processes, sampling and texts.
package model
