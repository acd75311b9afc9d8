#!/bin/sh
# Regenerates sdk/internal/pb from sdk/proto/v1 with pinned generators. Needs protoc (Debian: protobuf-compiler) and Go.
# The generated files are committed; CI runs this and fails on a diff. A newer protoc changes only a comment, which is
# replaced below so that the result does not depend on the machine.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out="$here/../internal/pb"
bin="${TMPDIR:-/tmp}/pimoe-protoc-gen.$$"
trap 'rm -rf "$bin"' EXIT INT TERM
mkdir -p "$bin" "$out"
GOBIN="$bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN="$bin" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
PATH="$bin:$PATH" protoc -I "$here/v1" \
	--go_out="$out" --go_opt=paths=source_relative \
	--go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
	common.proto expert.proto remote.proto router.proto
sed -i.bak -E 's#^(//[[:space:]-]+protoc[[:space:]]+)v.*$#\1(any)#' "$out"/*.pb.go
rm -f "$out"/*.bak
