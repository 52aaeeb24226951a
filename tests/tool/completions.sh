#!/bin/sh
# The man page and the completions name every option of every command, and the shells and man at hand can read them.
# Usage: completions.sh SEER MAN BASH ZSH FISH
set -eu
seer=$1 man=$2 bash=$3 zsh=$4 fish=$5
checked=0
for command in $("$seer" --help | sed -n '/^Subcommands:/,/^$/s/^  \([a-z-]*\) .*/\1/p'); do
  for option in $("$seer" "$command" --help | sed -n 's/^ \{2,4\}\(-h,\)\{0,1\}--\([a-z-]*\).*/\2/p'); do
    checked=$((checked + 1))
    grep -q -e "^    $command).*--${option}[ \"]" "$bash" || { echo "bash: $command --$option is missing"; exit 1; }
    sed -n "/^    $command)/,/;;/p" "$zsh" | grep -q -e "--${option}\[" || { echo "zsh: $command --$option is missing"; exit 1; }
    grep -q "seen_subcommand_from $command'.* -l $option " "$fish" || { echo "fish: $command --$option is missing"; exit 1; }
    [ "$option" = help ] || sed -n "/^\.SS seer $(echo "$command" | sed 's/-/\\\\-/')/,/^\.SS/p" "$man" |
      grep -q "$(echo "--$option" | sed 's/-/\\\\-/g')\\\\f" || { echo "man: $command --$option is missing"; exit 1; }
  done
done
[ "$checked" -ge 40 ] || { echo "only $checked options found"; exit 1; }
bash -n "$bash"
if command -v zsh >/dev/null; then zsh -n "$zsh"; fi
if command -v fish >/dev/null; then fish -n "$fish"; fi
if command -v man >/dev/null; then
  warnings=$(MANWIDTH=100 man --warnings=all -l "$man" 2>&1 >/dev/null)
  [ -z "$warnings" ] || { echo "$warnings"; exit 1; }
fi
# What a user gets who presses the tabulator.
# shellcheck disable=SC2016
got=$(bash -c '. "$1"; COMP_WORDS=(seer prefill --backend v) COMP_CWORD=3; _seer; echo "${COMPREPLY[*]}"
  COMP_WORDS=(seer gate-init --la) COMP_CWORD=2; _seer; echo "${COMPREPLY[*]}"
  COMP_WORDS=(seer co) COMP_CWORD=1; _seer; echo "${COMPREPLY[*]}"' bash "$bash" | tr '\n' ' ')
[ "$got" = "vulkan --layers convert " ] || { echo "bash completes to: $got"; exit 1; }
echo "$checked options"
