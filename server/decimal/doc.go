// Package decimal reads and writes float32 as JSON's decimal numbers, some times as fast as strconv, which its answers equal:
// a tensor of hidden states has tens of thousands of them.
//
// server, server/strictjson and server/oip use it. It refuses to know what is around the numbers.
package decimal
