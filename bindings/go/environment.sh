# shellcheck shell=bash
# environment.sh BUILD_DIR: sourced by the scripts beside it. Sets `go`, and the environment in which it builds against
# the library in BUILD_DIR; ends with 77 where that cannot be.
build=$(cd "$1" && pwd)
module=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
go=$("$module/toolchain.sh" --which) || { echo "skipped: no Go of version 1.22 or later (bindings/go/toolchain.sh)"; exit 77; }
command -v pkg-config >/dev/null || { echo "skipped: no pkg-config"; exit 77; }
command -v cc >/dev/null || { echo "skipped: no C compiler"; exit 77; }
if [[ $(nm -D "$build/libseerattn.so" 2>/dev/null) =~ __(asan|tsan)_init ]]; then
  echo "skipped: a library built with a sanitizer does not load into Go's programs"
  exit 77
fi
export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOWORK=off GOPROXY=off
export PKG_CONFIG_PATH=$build/meson-uninstalled LD_LIBRARY_PATH=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
out=$build/bindings/go
mkdir -p "$out"
# Go's own cache, where there is a home for it, serves every build folder.
GOCACHE=$("$go" env GOCACHE 2>/dev/null) || GOCACHE=$out/cache
export GOCACHE
cd "$module" || exit
