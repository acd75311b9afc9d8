package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// maskable are the kinds of personal data that have a shape.
var maskable = []string{"email", "card", "phone"}

func (v *validator) mask(kinds []string) {
	for i, k := range kinds {
		if !slices.Contains(maskable, k) {
			v.bad(fmt.Sprintf("log.mask[%d]", i), orEmpty(k), "one of "+strings.Join(maskable, ", "))
		}
	}
}

// Secrets are the values of all settings that are never printed, for whoever keeps them out of other texts.
func (c Config) Secrets() (out []string) {
	v := reflect.ValueOf(c)
	walkValues(v, v, "", func(key string, value, _ reflect.Value) {
		if isSecret(key) && value.Kind() == reflect.String && value.String() != "" {
			out = append(out, value.String())
		}
	})
	if headers, err := ParseHeaders(c.Tracing.Headers); err == nil { // each may come up without the others
		for _, value := range headers {
			out = append(out, value)
		}
	}
	return out
}
