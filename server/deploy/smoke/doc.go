// Package smoke holds tests that use what is rendered: the image's files are assembled and run as an engine would, with the
// settings, mounts and secrets of the rendered compose.yaml, and asked a question; the units are shown to systemd, and
// the bill of materials is held against the executables.
//
// Developers and CI run it. It refuses to hold anything but tests.
package smoke
