#!/usr/bin/env bash
# apt: python3 python3-venv g++
# toolchain: sees to it that there is an nvcc of CUDA 13: on PATH, in /usr/local/cuda, or NVIDIA's wheels from PyPI
# (some 250 MB) in .toolchains/cuda, where Meson looks for .toolchains/cuda/nvcc. Quick when nothing is to do.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$root/.toolchains/cuda

# 12.8 knows everything that the sources use.
usable() {
  local release
  release=$("$1" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p') || return 1
  [ -n "$release" ] || return 1
  # shellcheck disable=SC2086
  set -- $release
  [ "$1" -gt 12 ] || { [ "$1" -eq 12 ] && [ "$2" -ge 8 ]; }
}

for nvcc in nvcc "$tools/nvcc" /usr/local/cuda/bin/nvcc; do
  if usable "$nvcc"; then exit 0; fi
done

case "$(uname -sm)" in
  "Linux x86_64" | "Linux aarch64") ;;
  *) echo "cuda: NVIDIA has no nvcc on PyPI for this machine; the library is built without CUDA" >&2; exit 77 ;;
esac
echo "==> installing nvcc into .toolchains/cuda"
mkdir -p "$tools"
[ -x "$tools/env/bin/pip" ] || python3 -m venv --clear "$tools/env"
"$tools/env/bin/pip" install --quiet --no-deps \
  'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
  'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
found=$("$tools/env/bin/python" -c 'import nvidia, glob
print(*glob.glob(list(nvidia.__path__)[0] + "/cu13/bin/nvcc"))')
[ -x "$found" ] || { echo "cuda: the wheels have no nvcc where it was expected" >&2; exit 1; }
# Not a link: nvcc looks for its parts beside the name that it was called by.
printf '#!/bin/sh\nexec "%s" "$@"\n' "$found" >"$tools/nvcc.new"
chmod +x "$tools/nvcc.new"
mv "$tools/nvcc.new" "$tools/nvcc"
usable "$tools/nvcc"
