#!/usr/bin/env bash
# run: the installed library as its users meet it, each way from an empty directory: pkg-config, CMake, the static
# library, a Meson subproject (built statically), Debian packages.
# usage: tests/package/run.sh BUILD_DIR [WAY...]     WAY: pkgconfig cmake static subproject deb; all unless some are named
# BUILD_DIR is built and has tools and, for `static`, default_library=both. subproject and deb compile the library anew.
set -uo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(realpath "$1") || exit 2
shift
ways=("$@")
[ ${#ways[@]} -gt 0 ] || ways=(pkgconfig cmake static subproject deb)
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
version=$("$source/tools/version.sh")
warnings=(-Wall -Wextra -Wpedantic -Werror)

# runs COMMAND...: prints this version.
runs() {
  local said
  said=$("$@") || { echo "failed: $*"; return 1; }
  [ "$said" = "$version" ] || { echo "$*: printed $said, expected $version"; return 1; }
}

# empty NAME: a new directory to work in.
empty() { mkdir "$work/$1" && cd "$work/$1" && cp "$source"/tests/package/version.c* .; }

# found_in ROOT: pkg-config finds the package installed below ROOT, and only that.
found_in() {
  export PKG_CONFIG_SYSROOT_DIR=$1
  PKG_CONFIG_LIBDIR=$(dirname "$(find "$1" -name seerattn.pc)"):$(pkg-config --variable pc_path pkg-config)
  export PKG_CONFIG_LIBDIR
}

# with_pkgconfig ROOT: C99, C++20 and the README's program against what is installed there.
with_pkgconfig() {
  local flags libraries
  found_in "$1"
  [ "$(pkg-config --modversion seerattn)" = "$version" ] || { echo "seerattn.pc has another version"; return 1; }
  read -ra flags < <(pkg-config --cflags --libs seerattn)
  libraries=$(dirname "$(find "$1" -name libseerattn.so)")
  cc -std=c99 "${warnings[@]}" version.c -o version-c "${flags[@]}" || return
  c++ -std=c++20 "${warnings[@]}" version.cpp -o version-cpp "${flags[@]}" || return
  cc -std=c99 "${warnings[@]}" "$source/docs/example.c" -o example "${flags[@]}" || return
  export LD_LIBRARY_PATH=$libraries
  runs ./version-c && ./version-cpp && ./example "$source/tests/golden/llama-threshold"
}

installed() {
  local missing=0 path
  meson install -C "$build" --no-rebuild --quiet --destdir "$work/root" >/dev/null || return
  for path in bin/seer include/seerattn/seerattn.h include/seerattn/seerattn.hpp include/seerattn/cpp/values.hpp \
    share/man/man1/seer.1 share/bash-completion/completions/seer share/zsh/site-functions/_seer \
    share/fish/vendor_completions.d/seer.fish '*/libseerattn.so.0' '*/pkgconfig/seerattn.pc' \
    '*/cmake/seerattn/seerattnConfig.cmake' '*/cmake/seerattn/seerattnConfigVersion.cmake'; do
    [ -n "$(find "$work/root" -path "*/$path")" ] || { echo "not installed: $path"; missing=1; }
  done
  return "$missing"
}

way_pkgconfig() { empty pkgconfig && with_pkgconfig "$work/root"; }

# The tree is moved first: CMake's files know no absolute path.
way_cmake() {
  local prefix request
  empty cmake || return
  cp -a "$work/root" "$work/moved"
  prefix=$(dirname "$(dirname "$(find "$work/moved" -name seer -path '*/bin/*')")")
  cat >CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(user C CXX)
find_package(seerattn ${REQUEST} CONFIG REQUIRED)
add_executable(version-c version.c)
target_link_libraries(version-c PRIVATE seerattn::seerattn)
add_executable(version-cpp version.cpp)
target_compile_features(version-cpp PRIVATE cxx_std_20)
target_link_libraries(version-cpp PRIVATE seerattn::seerattn)
if(TARGET seerattn::seerattn_static)
  add_executable(version-static version.c)
  target_link_libraries(version-static PRIVATE seerattn::seerattn_static)
endif()
CMAKE
  { cmake -S . -B build -DCMAKE_PREFIX_PATH="$prefix" -DREQUEST="${version%.*}" && cmake --build build; } >log 2>&1 ||
    { tail -n 30 log; return 1; }
  runs build/version-c && build/version-cpp || return
  [ ! -f "$(find "$work/moved" -name libseerattn.a)" ] || runs build/version-static || return
  for request in 99 "$((${version%%.*} + 1))" 0.99; do
    ! cmake -S . -B other -DCMAKE_PREFIX_PATH="$prefix" -DREQUEST="$request" >/dev/null 2>&1 ||
      { echo "find_package(seerattn $request) accepts $version"; return 1; }
    rm -rf other
  done
}

# With the shared library gone, what pkg-config --static says is enough.
way_static() {
  local flags
  empty static || return
  cp -a "$work/root" "$work/static-root"
  find "$work/static-root" -name 'libseerattn.so*' -delete
  [ -n "$(find "$work/static-root" -name libseerattn.a)" ] ||
    { echo "$build has no static library: meson configure $build -Ddefault_library=both"; return 1; }
  found_in "$work/static-root"
  read -ra flags < <(pkg-config --static --cflags --libs seerattn)
  cc -std=c99 "${warnings[@]}" version.c -o version-c "${flags[@]}" || return
  ! ldd version-c | grep seerattn || { echo "links the shared library"; return 1; }
  runs ./version-c
}

# At a fixed place, for the compiler cache's sake.
way_subproject() {
  rm -rf "$build/package-subproject"
  mkdir -p "$build/package-subproject/subprojects" && cd "$build/package-subproject" || return
  cp "$source"/tests/package/version.c* . && ln -s "$source" subprojects/seerattn || return
  cat >meson.build <<'MESON'
project('user', 'c', 'cpp', default_options: 'cpp_std=c++20')
seerattn = dependency('seerattn', fallback: 'seerattn', default_options: ['default_library=static', 'optimization=0'])
executable('version-c', 'version.c', dependencies: seerattn)
executable('version-cpp', 'version.cpp', dependencies: seerattn)
MESON
  # Not the one that may be installed on this machine.
  { meson setup build --force-fallback-for=seerattn && ninja -C build version-c version-cpp; } >log 2>&1 ||
    { tail -n 30 log; return 1; }
  ! ninja -C build -t targets all | grep -q 'tests/api' || { echo "a subproject builds the tests too"; return 1; }
  ! ldd build/version-c | grep libseerattn || { echo "links the shared library"; return 1; }
  runs build/version-c && build/version-cpp
}

way_deb() {
  local deb
  command -v dpkg-shlibdeps >/dev/null || { echo "skipped: dpkg-shlibdeps is missing (package dpkg-dev)"; return 77; }
  empty deb && mkdir packages || return
  "$source/tools/deb.sh" "$work/deb/packages" >log 2>&1 || { tail -n 30 log; return 1; }
  [ "$(find packages -name '*.deb' | wc -l)" = 3 ] || { echo "not three packages"; return 1; }
  for deb in packages/*.deb; do
    dpkg-deb -x "$deb" "$work/deb/unpacked" || return
    dpkg-deb -f "$deb" Depends | grep -qE 'libc6|libseerattn0 \(= ' || { echo "$deb: no dependencies"; return 1; }
  done
  [ "$("$work/deb/unpacked/usr/bin/seer" --version)" = "seer $version" ] || { echo "seer --version: another version"; return 1; }
  with_pkgconfig "$work/deb/unpacked"
}

unset LD_LIBRARY_PATH PKG_CONFIG_PATH PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR
installed || { echo "install: FAILED"; exit 1; }
failed=0 passed=0
for way in "${ways[@]}"; do
  start=$SECONDS
  (set -e; "way_$way") </dev/null
  case $? in
    0) passed=$((passed + 1)); echo "$way: passed, $((SECONDS - start)) s" ;;
    77) ;;
    *) failed=$((failed + 1)); echo "$way: FAILED" ;;
  esac
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
