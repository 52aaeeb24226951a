#!/usr/bin/env bash
# apt: python3 python3-venv g++
# toolchain: sees to it that there is an nvcc of CUDA 13: on PATH, in /usr/local/cuda, or NVIDIA's wheels from PyPI
# (some 250 MB) in .toolchains/cuda, where Meson looks for .toolchains/cuda/nvcc. Beside the latter also cuobjdump and
# nvdisasm (5 MB), with which compile.py looks at machine code; without them it says so. Quick when nothing is to do.
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

# The toolkits of a system have cuobjdump and nvdisasm.
for nvcc in nvcc /usr/local/cuda/bin/nvcc; do
  if usable "$nvcc"; then exit 0; fi
done
if usable "$tools/nvcc" && [ -x "$tools/cuobjdump" ] && [ -x "$tools/nvdisasm" ]; then exit 0; fi

case "$(uname -sm)" in
  "Linux x86_64" | "Linux aarch64") ;;
  *) echo "cuda: NVIDIA has no nvcc on PyPI for this machine; the library is built without CUDA" >&2; exit 77 ;;
esac
mkdir -p "$tools"
[ -x "$tools/env/bin/pip" ] || python3 -m venv --clear "$tools/env"

# place NAME: the wheels' program as .toolchains/cuda/NAME. Not a link: each looks for its parts beside the name that it
# was called by.
place() {
  local found
  found=$("$tools/env/bin/python" -c 'import nvidia, glob, sys
print(*glob.glob(list(nvidia.__path__)[0] + "/cu13/bin/" + sys.argv[1]))' "$1")
  [ -x "$found" ] || { echo "cuda: the wheels have no $1 where it was expected" >&2; return 1; }
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$found" >"$tools/$1.new"
  chmod +x "$tools/$1.new"
  mv "$tools/$1.new" "$tools/$1"
}

if ! usable "$tools/nvcc"; then
  echo "==> installing nvcc into .toolchains/cuda"
  "$tools/env/bin/pip" install --quiet --no-deps \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
    'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
  place nvcc
  usable "$tools/nvcc"
fi
echo "==> installing cuobjdump and nvdisasm into .toolchains/cuda"
# There are no wheels of 13.0; later ones read its machine code.
if ! { "$tools/env/bin/pip" install --quiet --no-deps 'nvidia-cuda-cuobjdump==13.2.*' 'nvidia-cuda-nvdisasm==13.2.*' &&
  place cuobjdump && place nvdisasm; }; then
  echo "cuda: cuobjdump and nvdisasm cannot be had: kernels are built without a look at their machine code" >&2
fi
