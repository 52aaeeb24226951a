#!/usr/bin/env bash
# toolchain.sh: sees to it that there is a Go of version 1.22 or later with cgo. One on PATH is taken if it is new
# enough, else one in .toolchains/go, which an older Go (Debian 12's is 1.19) fetches through the Go module proxy, with
# the checksum database as witness. Does nothing where all is there.
# usage: bindings/go/toolchain.sh          exit 1: could not, and why
#        bindings/go/toolchain.sh --which  prints the path of the go command and installs nothing
# apt: golang-go gcc libc6-dev pkg-config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
oldest=22 fetched=1.26.8

# The go commands that there are, best first.
candidates() {
  command -v go || true
  printf '%s\n' "$PWD/.toolchains/go/bin/go" /usr/local/go/bin/go /usr/lib/go-1.*/bin/go
}

# The first that is new enough. GOTOOLCHAIN=local: it must not fetch another one by itself.
which_go() {
  local go version
  while IFS= read -r go; do
    [ -x "$go" ] || continue
    version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null) || continue
    version=${version#go1.} version=${version%%[!0-9]*}
    if [ "${version:-0}" -ge "$oldest" ]; then
      echo "$go"
      return
    fi
  done < <(candidates)
  return 1
}

# fetch GO: with any Go that knows modules.
fetch() {
  local go=$1 platform cache=.toolchains/go-download
  platform="$("$go" env GOOS)-$("$go" env GOARCH)"
  echo "fetching Go $fetched for $platform through the module proxy"
  rm -rf "$cache" .toolchains/go
  mkdir -p "$cache"
  # Outside of the repository, so that no go.mod of it is looked at.
  (cd "$cache" && GOFLAGS=-modcacherw GO111MODULE=on GOPATH=$PWD/path GOMODCACHE=$PWD/mod GOCACHE=$PWD/cache \
    "$go" mod download "golang.org/toolchain@v0.0.1-go$fetched.$platform")
  mv "$cache/mod/golang.org/toolchain@v0.0.1-go$fetched.$platform" .toolchains/go
  rm -rf "$cache"
  chmod +x .toolchains/go/bin/* .toolchains/go/pkg/tool/*/* # modules carry no file modes
}

if [ "${1:-}" = --which ]; then
  which_go
  exit
fi
for tool in cc pkg-config; do
  command -v "$tool" >/dev/null || { echo "$tool is missing; on Debian: gcc, libc6-dev and pkg-config" >&2; exit 1; }
done
if ! which_go >/dev/null; then
  any=$(candidates | while IFS= read -r go; do [ -x "$go" ] && echo "$go" && break; done) || true
  [ -n "$any" ] || { echo "there is no Go; Debian's package is golang-go" >&2; exit 1; }
  fetch "$any" || { echo "could not fetch Go $fetched; is there a network?" >&2; exit 1; }
  which_go >/dev/null || { echo "the Go that was fetched does not run" >&2; exit 1; }
fi
