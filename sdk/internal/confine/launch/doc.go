// Package launch is what runs in a plugin's process between the fork and the plugin's own program: the host starts itself
// once more, this package takes over before anything else of the host runs, confines the process and becomes the plugin.
//
// Package confine writes the plan that it follows and reads what came of it. It decides nothing and imports next to
// nothing, so that the runtime initialises it before almost every other package of a large host: that is what a start
// costs. It refuses to go on without its host, and to return.
package launch
