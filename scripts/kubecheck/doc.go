// Package kubecheck holds the rendered manifests against the cluster that will read them: the types of the Kubernetes API, its
// judge of the restricted profile, its rules for connections between pods, and whether everything that a manifest names is
// there.
//
// scripts/test.sh runs its tests, and `make kube-check` those of package chart, too. It is a module of its own, so that nobody
// who builds PiMoE downloads Kubernetes, and it refuses to have code that only a test of PiMoE's own would need.
package kubecheck
