// Package memory watches how much memory a host and its plugins use of what they may, and says when new work must wait: from
// 80 percent on, until it is below 75 again. What is only kept for later is given up first.
//
// server starts one Watch, refuses work while it is Pressed and gives it the figures. The package refuses to decide what is given
// up, and to guess a limit where neither the configuration nor a cgroup has one: there it never presses.
package memory
