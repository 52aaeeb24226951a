#!/bin/sh
# Compiles seerattn.h alone in every language standard that the compilers at hand know, with every warning that matters
# to a public header: no hidden padding, no implicit conversion. Usage: header.sh INCLUDE_DIR
set -eu
flags="-Wall -Wextra -pedantic -Wshadow -Wconversion -Wpadded -Werror -fsyntax-only -I$1"
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
structs="seer_device_info seer_allocator seer_context_params seer_load_params seer_gate_config seer_gate_weights
  seer_gate_cache_params seer_prefill_desc seer_gate_desc seer_select_desc seer_attention_desc seer_submit seer_stats"

# Every growable struct with its initialiser; a struct that this list forgets is found below.
{
  echo '#include <seerattn/seerattn.h>'
  for s in $structs; do echo "uint32_t size_of_$s(void); uint32_t size_of_$s(void) { $s x = SEER_INIT($s); return x.struct_size; }"; done
} > "$directory/header.c"
cp "$directory/header.c" "$directory/header.cpp"
growable=$(grep -c 'uint32_t struct_size;' "$1/seerattn/seerattn.h")
# shellcheck disable=SC2086
listed=$(echo $structs | wc -w)
[ "$growable" = "$listed" ] || { echo "the header has $growable growable structs, this test lists $listed"; exit 1; }

checked=0
compile() { # COMPILER STANDARD FILE
  command -v "$1" >/dev/null || return 0
  # shellcheck disable=SC2086
  "$1" -std="$2" $flags "$3"
  checked=$((checked + 1))
}
for standard in c99 c11 c17; do
  compile gcc "$standard" "$directory/header.c"
  compile clang "$standard" "$directory/header.c"
done
for standard in c++98 c++11 c++14 c++17 c++20; do
  compile g++ "$standard" "$directory/header.cpp"
  compile clang++ "$standard" "$directory/header.cpp"
done
echo "$checked compilations"
[ "$checked" -ge 8 ]
