// Package chart holds the chart against the real Helm: its templates must give what the plain manifests say, with the values
// of every committed deployment, and its schema must refuse what is wrong.
//
// `make kube-check` runs its tests. They are apart from those of kubecheck because Helm's engine brings a client of the
// cluster along, which takes minutes to build where nothing is built yet. It refuses to have code that is not a test.
package chart
