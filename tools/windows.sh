#!/usr/bin/env bash
# windows.sh: builds seerattn for 64-bit Windows with mingw-w64, and runs its tests under Wine.
# usage: tools/windows.sh [setup | build | test]...   (all three, in this order, if none is named)
# Works in .toolchains/windows and build-windows. Debian and Ubuntu; installs nothing: `./dev setup --ci` does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
toolchain=$PWD/.toolchains/windows
jobs=$(nproc)

die() { printf 'windows.sh: %s\n' "$*" >&2; exit 1; }

# Debian's source package of Highway in $1: the distribution has no build of it for Windows.
highway_source() {
  local work=$1 list
  mkdir -p "$work/lists/partial" "$work/parts"
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -s "$list" ] || continue
    case "$list" in
      *.sources) sed 's/^Types:.*/Types: deb-src/' "$list" >"$work/parts/$(basename "$list")" ;;
      *.list) grep -E '^deb ' "$list" | sed 's/^deb /deb-src /' >"$work/parts/$(basename "$list")" || true ;;
    esac
  done
  local apt=(apt-get -q -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/parts"
    -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
  # Archives without sources are no harm as long as Highway's is found.
  "${apt[@]}" update >"$work/update.log" 2>&1 || true
  (cd "$work" && "${apt[@]}" --download-only source highway >source.log 2>&1) ||
    { cat "$work/update.log" "$work/source.log" >&2; die "Highway's source package cannot be had"; }
  tar -xf "$work"/highway_*.orig.tar.* -C "$work"
}

pc() { # NAME VERSION LIBS
  printf 'Name: %s\nDescription: for Windows\nVersion: %s\nLibs: -L%s %s\nCflags: -isystem%s\n' \
    "$1" "$2" "$toolchain/lib" "$3" "$toolchain/include" >"$toolchain/lib/pkgconfig/$1.pc"
}

setup() {
  [ ! -f "$toolchain/ready" ] || return 0
  local work source object
  rm -rf "$toolchain"
  mkdir -p "$toolchain"/{include,lib/pkgconfig}
  work=$(mktemp -d)
  echo "==> Highway for Windows, from its source package"
  highway_source "$work"
  source=$(dirname "$(find "$work" -name targets.cc -path '*/hwy/*' | head -n 1)")
  for object in targets per_target aligned_allocator print timer; do
    [ -f "$source/$object.cc" ] || continue
    x86_64-w64-mingw32-g++-posix -std=c++17 -O2 -I"$source/.." -c "$source/$object.cc" -o "$work/$object.o"
  done
  x86_64-w64-mingw32-gcc-ar-posix rcs "$toolchain/lib/libhwy.a" "$work"/*.o
  (cd "$source/.." && find hwy -name '*.h' ! -path '*/tests/*' -exec cp --parents {} "$toolchain/include" \;)
  pc libhwy "$(pkg-config --modversion libhwy)" -lhwy
  # Headers only: those of the build machine serve.
  cp -r /usr/include/{nlohmann,doctest,CLI,stb,vulkan,vk_video} "$toolchain/include"
  pc nlohmann_json "$(pkg-config --modversion nlohmann_json)" ''
  cp /usr/x86_64-w64-mingw32/include/{zlib,zconf}.h "$toolchain/include"
  cp /usr/x86_64-w64-mingw32/lib/libz.a "$toolchain/lib"
  pc zlib "$(pkg-config --modversion zlib)" -lz
  # Wine with a home of its own, without a display or its offers to install things.
  cat >"$toolchain/wine" <<END
#!/bin/sh
export WINEPREFIX="$toolchain/prefix" WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=' DISPLAY=
exec "\$(command -v wine64 || echo /usr/lib/wine/wine64)" "\$@"
END
  chmod +x "$toolchain/wine"
  local cache=
  ! command -v ccache >/dev/null || cache="'ccache', "
  sed "s|@TOOLCHAIN@|$toolchain|; s|@CCACHE@|$cache|" tools/windows/cross.ini >"$toolchain/cross.ini"
  rm -rf "$work"
  touch "$toolchain/ready"
}

has_cuda() { grep -q cuda-host build-windows/build.ninja; }

build() {
  local again=()
  [ ! -f build-windows/build.ninja ] || again=(--reconfigure)
  meson setup "${again[@]}" build-windows --cross-file "$toolchain/cross.ini" ${CI:+--werror} -Dtools=enabled
  # What the tests below need, and the command. Without nvcc the library is built without CUDA.
  local cuda=()
  if has_cuda; then cuda=(tests/cuda/cuda-host.exe tests/cuda/fake_cuda.dll); fi
  ninja -C build-windows -j "$jobs" libseerattn-0.dll tools/seer.exe docs/example.exe tests/unit/unit.exe \
    tests/api/api.exe tests/api/lifecycle.exe tests/api/convert.exe "${cuda[@]}"
}

run_tests() {
  "$toolchain/wine" wineboot --init >/dev/null 2>&1 || die "Wine does not start"
  meson test -C build-windows --no-rebuild --print-errorlogs --timeout-multiplier 4 "$@"
}

if [ $# = 0 ]; then set -- setup build test; fi
for command in "$@"; do
  case "$command" in
    setup | build) "$command" ;;
    test)
      run_tests unit api lifecycle convert example
      if has_cuda; then run_tests cuda-host; fi
      "$toolchain/wine" build-windows/tools/seer.exe check tests/golden/{llama-threshold,double-gate,qwen-yarn}
      ;;
    *) sed -n 's/^# //p' "$0" | head -n 3 >&2; exit 2 ;;
  esac
done
