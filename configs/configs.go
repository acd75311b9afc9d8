// Package configs holds commented example configurations. Operators copy them; a test loads every one, so that none
// goes stale. It has no code, and refuses examples that the program would refuse.
package configs
