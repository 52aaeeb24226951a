#!/usr/bin/env bash
# toolchain.sh [all]: what the distribution does not have, from Debian sid into .toolchains/vulkan/sid, without root:
# glslang and spirv-tools that know cooperative matrices and bfloat16, and with `all` also Mesa's newest CPU driver
# (lavapipe), the validation layers, and SwiftShader out of this distribution's Chromium
# (.toolchains/vulkan/swiftshader/icd.json). Quick when nothing is to do. A tool there is run through its own loader:
#   .toolchains/vulkan/run PROGRAM ARGUMENTS...
# and a program of this machine sees the driver and layers there with the environment of .toolchains/vulkan/env.sh.
# apt: apt ca-certificates debian-archive-keyring
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

here=$PWD/.toolchains/vulkan
root=$here/sid
packages=(glslang-tools spirv-tools)
[ "${1:-}" != all ] || packages+=(mesa-vulkan-drivers libvulkan1 vulkan-validationlayers libstdc++6)

lacking=()
for name in "${packages[@]}"; do [ -e "$here/done/$name" ] || lacking+=("$name"); done
swiftshader=$here/swiftshader
want_swiftshader=0
[ "${1:-}" != all ] || [ -e "$swiftshader/icd.json" ] || want_swiftshader=1
[ ${#lacking[@]} -gt 0 ] || [ $want_swiftshader = 1 ] || exit 0

if [ "$(uname -m)" != x86_64 ] || ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "toolchain.sh: needs apt-get on x86_64; elsewhere use a glslang >= 16 of your own" >&2
  exit 77
fi

# Two files of a package of this distribution; nothing that they need is missing here.
if [ $want_swiftshader = 1 ]; then
  rm -rf "$swiftshader.new" && mkdir -p "$swiftshader.new"
  (cd "$swiftshader.new" && apt-get -q -o "APT::Sandbox::User=$(id -un)" download chromium-common &&
    dpkg-deb --fsys-tarfile chromium-common_*.deb | tar -x --no-same-owner --strip-components=4 \
      ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json &&
    mv vk_swiftshader_icd.json icd.json && rm -f chromium-common_*.deb)
  rm -rf "$swiftshader" && mv "$swiftshader.new" "$swiftshader"
fi
[ ${#lacking[@]} -gt 0 ] || exit 0

# An apt of our own: its lists, its empty list of installed packages, its sources; nothing of the system changes.
apt=$here/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root" "$here/done"
: >"$apt/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [ ! -e "$keyring" ]; then
  echo "toolchain.sh: $keyring is missing: install debian-archive-keyring" >&2
  exit 77
fi
# sid from the mirror that this machine's apt uses.
# shellcheck disable=SC2016  # apt's own placeholders
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(COMPONENT) $(CODENAME)' 'Created-By: Packages' |
  awk '$2 == "Debian" && $3 == "main" && $4 !~ /-/ { print $1; exit }')
[ -n "$mirror" ] || { echo "toolchain.sh: apt on this machine knows no Debian mirror" >&2; exit 77; }
echo "deb [signed-by=$keyring] $mirror sid main" >"$apt/sources.list"
options=(-q -o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status"
  -o "Dir::Cache=$apt/cache" -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o Debug::NoLocking=1
  -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o "APT::Sandbox::User=$(id -un)"
  -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
apt-get "${options[@]}" update
apt-get "${options[@]}" -y --no-install-recommends --download-only install "${lacking[@]}"

# Directories of a merged /usr, which a package's files expect.
mkdir -p "$root"/usr/{bin,lib,lib64,sbin}
for name in bin lib lib64 sbin; do [ -e "$root/$name" ] || ln -s "usr/$name" "$root/$name"; done
for file in "$apt"/cache/archives/*.deb; do
  case "$(basename "$file")" in base-files_*|base-passwd_*|debconf_*|libc-bin_*) continue ;; esac
  dpkg-deb --fsys-tarfile "$file" | tar -x -C "$root" --no-same-owner --keep-directory-symlink
done
rm -rf "$apt/cache/archives"/*.deb

cat >"$here/run" <<END
#!/bin/sh
# run PROGRAM ARGUMENTS...: a program of sid's, or any that needs sid's libraries, through sid's loader.
case "\$1" in */*) program=\$1 ;; *) program=$root/usr/bin/\$1 ;; esac
shift
exec $root/usr/lib64/ld-linux-x86-64.so.2 --library-path \
  $root/usr/lib/x86_64-linux-gnu "\$program" "\$@"
END
chmod +x "$here/run"
cat >"$here/env.sh" <<END
# Source this, then start programs by .toolchains/vulkan/run: sid's Vulkan driver for the CPU and its layers.
export VK_ICD_FILENAMES=$root/usr/share/vulkan/icd.d/lvp_icd.json
export VK_DRIVER_FILES=\$VK_ICD_FILENAMES
export VK_LAYER_PATH=$root/usr/share/vulkan/explicit_layer.d
# The width at which lavapipe's cooperative matrices work.
export LP_NATIVE_VECTOR_WIDTH=256
END
for name in "${lacking[@]}"; do touch "$here/done/$name"; done
