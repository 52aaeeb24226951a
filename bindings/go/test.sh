#!/usr/bin/env bash
# test.sh BUILD_DIR: everything that is tested of the Go binding, against the library in BUILD_DIR. 77: cannot run here.
set -euo pipefail
# shellcheck source=bindings/go/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "${1:?usage: test.sh BUILD_DIR}"

step() { echo "-- $*"; }

step gofmt
unformatted=$("${go%/go}/gofmt" -l .)
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted"; exit 1; }

step "the header is the library's"
cmp seerattn.h ../../capi/include/seerattn/seerattn.h

step go vet
"$go" vet ./...

# One build of the standard library for both: -race, and with cgocheck2, which finds Go pointers that are stored where
# the collector does not look.
step "go test -race with cgocheck2"
GOEXPERIMENT=cgocheck2 "$go" test -race -count=1 ./...

step "go test"
"$go" test -count=1 ./...

step "a module of one's own, as README.md says, and without pkg-config"
"$module/newcomer.sh" "$go" "$build" "$out/newcomer"
