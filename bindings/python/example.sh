#!/usr/bin/env bash
# The example, with the library of a build folder: example.sh BUILD_DIR GATE_FOLDER TENSORS.safetensors [LAYER]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "$1" && pwd)
shift
command -v python3 >/dev/null || { echo "python3 is missing" >&2; exit 77; }
if grep -qE '__(asan|tsan|msan)_init' "$build/libseerattn.so.0"; then exit 77; fi # could not be loaded into Python
export SEERATTN_LIB=$build PYTHONPATH=$here/src PYTHONDONTWRITEBYTECODE=1
exec python3 "$here/examples/prefill.py" "$@"
