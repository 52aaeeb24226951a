#!/usr/bin/env bash
# style_check.sh: house rules that grep can check, over the tracked text files. Prints each offence; exit 1 if any.
set -uo pipefail
export LC_ALL=C.UTF-8  # git grep -P needs it for \x{...}
cd "$(dirname "$0")/.." || exit 2

# Data is exempt: golden cases, fuzz corpora, pictures, texts that models read.
exempt=(':!tests/golden' ':!tests/fuzz/corpus' ':!tests/data' ':!data' ':!*.png' ':!LICENSE')
sources=('*.c' '*.h' '*.cpp' '*.cu' '*.cuh' '*.comp' '*.glsl' '*.rs' '*.go' '*.cs' '*.py' '*.sh')
offences=0
# The patterns are put together from parts so that this file does not contain what it forbids.
unfinished='TO''DO|FIX''ME|XX''X'

# forbid WHAT PATTERN [PATHS...]: no line of the tracked files may match.
forbid() {
  local what=$1 pattern=$2 hits
  shift 2
  hits=$(git grep -nIP -e "$pattern" -- "$@" "${exempt[@]}")
  case $? in
    0) printf '%s:\n%s\n' "$what" "$hits" | head -n 12 | cut -c1-200; offences=$((offences + 1)) ;;
    1) ;;
    *) echo "git grep failed on: $what"; offences=$((offences + 1)) ;;
  esac
}

forbid 'tab' '\t' ':!*.go' ':!*go.mod'  # gofmt's indentation
forbid 'space at the end of a line' '[ \r]+$'
forbid 'invisible or direction-changing character' \
  '[\x{00A0}\x{00AD}\x{200B}-\x{200F}\x{2028}-\x{202E}\x{2060}-\x{2064}\x{2066}-\x{206F}\x{FEFF}]'
forbid 'unfinished work' "\b($unfinished)\b"
forbid 'path of one machine' '(^|[^.\w/])/(work|root|home/\w+|Users/\w+)/'
forbid 'host of a package registry' 'https?://(deb|pypi|registry|proxy|static|index|files)\.'
forbid 'printing, exiting or aborting in the library' '\b(printf|fprintf|puts|perror|exit|_exit|abort|std::terminate)\s*\(|std::(cout|cerr)\b' 'src/*.cpp' 'src/*.h' 'capi/*.cpp'

while IFS= read -r file; do
  [ -f "$file" ] || continue
  lines=$(wc -l <"$file")
  [ "$lines" -le 600 ] || { echo "over 600 lines: $file ($lines)"; offences=$((offences + 1)); }
  [ -z "$(tail -c 1 "$file")" ] || { echo "no newline at the end: $file"; offences=$((offences + 1)); }
done < <(git ls-files -- "${sources[@]}" "${exempt[@]}")

while IFS= read -r -d '' file; do
  [ -f "$file" ] || continue
  bytes=$(stat -c %s "$file")
  [ "$bytes" -le 4194304 ] || { echo "over 4 MiB: $file ($bytes bytes)"; offences=$((offences + 1)); }
done < <(git ls-files -z)

[ "$offences" = 0 ] || { echo "style: $offences kinds of offence"; exit 1; }
echo "style: clean"
