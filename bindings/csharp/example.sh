#!/usr/bin/env bash
# example: runs the example, built from packages. usage: example.sh BUILD_DIR GATE_FOLDER TENSORS.safetensors [LAYER]
set -euo pipefail
build=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shift
cd "$here/../.."
# shellcheck source=bindings/csharp/environment.sh
. bindings/csharp/environment.sh
[ -n "$dotnet" ] || exit 77
program() { find "$build/bindings/csharp/bin/Prefill" -name Prefill.dll 2>/dev/null | head -n 1; }
stale() {
  [ -z "$(program)" ] ||
    [ -n "$(find -L "$here/src" "$here/examples" "$build/libseerattn.so.0" -newer "$(program)" -type f | head -n 1)" ]
}
if stale; then "$here/build.sh" "$build" >&2; fi
cd "$OLDPWD"
"$dotnet" "$(program)" "$@"
