#!/usr/bin/env bash
# lint.sh [--all] [--minutes N]: all checks that need no test run. build/ must be configured (./dev lint does it).
# clang-tidy reads the files changed against main, or every file with --all, newest change first, for at most N minutes
# (10 unless told); what it did not get to is counted aloud.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
all=false minutes=10 build=build failed=()
while [ $# -gt 0 ]; do
  case "$1" in
    --all) all=true ;;
    --minutes) minutes=$2; shift ;;
    *) echo "usage: tools/lint.sh [--all] [--minutes N]" >&2; exit 2 ;;
  esac
  shift
done

check() {
  echo "-- $1"
  "$1" || failed+=("$1")
}

formatting() {
  git ls-files -z '*.c' '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 clang-format --dry-run -Werror
}

style() { tools/style_check.sh; }

shell_scripts() {
  git ls-files -z 'dev' '*.sh' '.ci/*' | xargs -0 shellcheck
}

# Every internal header compiles alone, so that include order never matters. (The public one, and what the library
# exports, are tests: tests/api/header.sh, exports.sh.)
# shellcheck disable=SC2016  # a bash per header expands it
headers() {
  git ls-files -z 'src/*.h' 'capi/*.h' 'tools/*.h' 'tests/support/*.h' ':!*-inl.h' ':!capi/include' |
    xargs -0 -n 1 -P "$(nproc)" bash -c \
      'c++ -std=c++20 -Wall -Wextra -fsyntax-only -x c++ -Isrc -Icapi/include -Itests -include "$0" /dev/null ||
        { echo "$0 does not compile alone"; exit 1; }'
}

tidy() {
  local base files=() known end batch=() left status=0
  known=$(python3 -c 'import json, os, sys
for e in json.load(open(sys.argv[1] + "/compile_commands.json")):
    print(os.path.relpath(os.path.join(e["directory"], e["file"])))' "$build") || return 1
  if $all; then
    # Newest commit first: a limit then cuts off the files that were checked most often.
    mapfile -t files < <(git log --format= --name-only -- '*.cpp' '*.c' | awk 'NF && !seen[$0]++' | grep -Fxf <(echo "$known"))
  else
    base=$(git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)
    mapfile -t files < <(git diff --name-only "$base" -- '*.cpp' '*.c' | grep -Fxf <(echo "$known"))
  fi
  echo "${#files[@]} files, at most $minutes minutes"
  end=$((SECONDS + minutes * 60)) left=${#files[@]}
  while [ "$left" -gt 0 ] && [ "$SECONDS" -lt "$end" ]; do
    batch=("${files[@]:${#files[@]}-left:4}")
    printf '%s\0' "${batch[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet --warnings-as-errors='*' \
      2> >(grep -vE '^[0-9]+ warnings? generated|^Suppressed|^Use -header-filter' >&2) || status=1
    left=$((left - ${#batch[@]}))
  done
  [ "$left" -le 0 ] || echo "out of time: $left files not checked"
  return "$status"
}

for name in formatting style shell_scripts headers tidy; do check "$name"; done
[ ${#failed[@]} = 0 ] || { echo "lint failed: ${failed[*]}"; exit 1; }
echo "lint: clean"
