package model

import "math"

// sincos has the same bits on every machine, unlike package math's, which compilers may fuse. It is sin and cos of x for 0 <= x < 2^25 to about 1e-15 absolute: x = n pi/2 + r with pi/2 in two parts, then Taylor.
func sincos(x float64) (sin, cos float64) {
	// The first part has 25 bits, so that n times it is exact for n < 2^28.
	const a, b = 1.57079631090164184570e+00, 1.58932547735281966916e-08
	n := math.Floor(float64(x*(2/math.Pi)) + 0.5)
	r := x - float64(n*a)
	r -= float64(n * b)
	z := float64(r * r)
	s := -1.0 / 1307674368000
	s = float64(s*z) + 1.0/6227020800
	s = float64(s*z) - 1.0/39916800
	s = float64(s*z) + 1.0/362880
	s = float64(s*z) - 1.0/5040
	s = float64(s*z) + 1.0/120
	s = float64(s*z) - 1.0/6
	s = r + float64(float64(s*z)*r)
	q := -1.0 / 87178291200
	q = float64(q*z) + 1.0/479001600
	q = float64(q*z) - 1.0/3628800
	q = float64(q*z) + 1.0/40320
	q = float64(q*z) - 1.0/720
	q = float64(q*z) + 1.0/24
	q = float64(q*z) - 0.5
	q = float64(q*z) + 1
	switch int64(n) & 3 {
	case 0:
		return s, q
	case 1:
		return q, -s
	case 2:
		return -s, -q
	}
	return -q, s
}
