// Package oip is the Open Inference Protocol, version 2, of KServe and Triton, as far as it is data: requests in JSON, with
// Triton's binary tensors behind it, or as gRPC messages become one Request, checked against the Model that it is for, and
// a Response becomes either.
//
// server asks it on both of its doors. It refuses to know HTTP, connections and the engine; names of shared memory, which
// strangers could forge; and tensors larger than their Model allows, before anything of that size is allocated.
package oip
