#!/usr/bin/env bash
# test: the binding's tests with the library of a build folder. 77: Python or what the tests need is missing.
# usage: bindings/python/test.sh [--full] BUILD_DIR
# What needs torch or transformers is skipped where the Python has them not; --full runs it, with SmolLM2, in the
# environment that `toolchain.sh --full` makes (called here): gigabytes the first time, then some minutes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
full=
[ "${1:-}" != --full ] || { full=1; shift; }
build=$(cd "${1:?usage: test.sh [--full] BUILD_DIR}" && pwd)
[ -e "$build/libseerattn.so.0" ] || { echo "there is no $build/libseerattn.so.0" >&2; exit 1; }
if grep -qE '__(asan|tsan|msan)_init' "$build/libseerattn.so.0"; then
  echo "the library is built with a sanitizer, which would have to be loaded before Python: not run"
  exit 77
fi

# The first with NumPy; without one, the tests that need it are skipped and say so.
python=
for candidate in "$root/.toolchains/python/bin/python" /usr/bin/python3 python3; do
  if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    [ -n "$python" ] || python=$candidate
    if "$candidate" -c 'import numpy' 2>/dev/null; then
      python=$candidate
      break
    fi
  fi
done
[ -n "$python" ] || { echo "python3 with venv (python3-venv) is missing" >&2; exit 77; }
if [ -n "$full" ]; then
  "$here/toolchain.sh" --full
  python=$root/.toolchains/python-full/bin/python
fi

work=$build/bindings/python
mkdir -p "$work"
export SEERATTN_LIB=$build SEER_BUILD=$build PYTHONPATH=$here/src PYTHONPYCACHEPREFIX=$work/pycache
cd "$here/tests"
echo "-- $("$python" --version) with $("$python" -c '
import importlib.util, sys
print(*(name for name in ("numpy", "torch", "transformers") if importlib.util.find_spec(name)) or ["nothing else"])')"
tests=(layout calls misuse async wheel torch cuda)
[ -z "$full" ] || tests+=(transformers)
for name in "${tests[@]}"; do
  echo "-- test_$name"
  "$python" -W error::ResourceWarning -X dev -X faulthandler "test_$name.py" 2>&1
done

cd "$here"
linted=("$here"/src/seerattn/*.py "$here"/tests/*.py "$here"/examples/*.py "$here"/build_wheel.py)
for tool in pyflakes mypy; do
  lint=
  for candidate in "$root/.toolchains/python/bin/python" "$python" /usr/bin/python3 python3; do
    if "$candidate" -c "import $tool" 2>/dev/null; then
      lint=$candidate
      break
    fi
  done
  if [ -z "$lint" ]; then
    echo "-- $tool is not installed: not run"
  elif [ "$tool" = pyflakes ]; then
    echo "-- pyflakes"
    "$lint" -m pyflakes "${linted[@]}"
  else
    echo "-- mypy"
    "$lint" -m mypy --cache-dir "$work/mypy" --config-file pyproject.toml
  fi
done
