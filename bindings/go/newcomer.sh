#!/usr/bin/env bash
# newcomer.sh GO BUILD_DIR FOLDER: README.md's steps in an empty folder, with the module served as a proxy would serve
# it (so that nothing outside of it is needed), and once with a -replace. The program's output is checked.
set -euo pipefail
go=$1 build=$2 folder=$3
module=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cases=$module/../../tests/golden
path=$(cd "$module" && "$go" list -m) version=v0.1.0
chmod -R u+w "$folder" 2>/dev/null || true
rm -rf "$folder"
mkdir -p "$folder"/{proxy,replaced,got}

expect() {
  grep -qxE 'density +[0-9]+\.[0-9] %' "$1" || { cat "$1"; exit 1; }
  grep -qxE 'checksum [0-9a-f]{8}' "$1" || { cat "$1"; exit 1; }
}

echo "with go mod edit -replace"
cd "$folder/replaced"
"$go" mod init example.com/mine 2>/dev/null
"$go" mod edit -require "$path@v0.0.0" -replace "$path=$module"
cp "$module/examples/prefill/main.go" .
SEER_BACKEND=cpu "$go" run . "$cases/one-block" "$cases/one-block/case.safetensors" >output
expect output

echo "with go get, and vendored"
files=$folder/proxy/$path/@v
mkdir -p "$files"
cp "$module/go.mod" "$files/$version.mod"
echo "$version" >"$files/list"
printf '{"Version":"%s","Time":"2026-11-22T00:00:00Z"}\n' "$version" >"$files/$version.info"
python3 - "$module" "$files/$version.zip" "$path@$version" <<'END'
import pathlib, sys, zipfile
module, target, prefix = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with zipfile.ZipFile(target, "w") as out:
    for file in sorted(p for p in module.rglob("*") if p.is_file()):
        out.write(file, f"{prefix}/{file.relative_to(module).as_posix()}")
END
cd "$folder/got"
export GOPROXY=file://$folder/proxy GONOSUMDB='*' GOFLAGS="$GOFLAGS -modcacherw" GOMODCACHE=$folder/modcache
"$go" mod init example.com/mine 2>/dev/null
"$go" get "$path@$version"
cp "$module/examples/prefill/main.go" .
"$go" mod vendor
"$go" build -o with-pkg-config .
PKG_CONFIG=/bin/false CGO_LDFLAGS="-L$build -Wl,-rpath,$build" "$go" build -tags seerattn_flags -o with-flags .
for program in with-pkg-config with-flags; do
  SEER_BACKEND=cpu "./$program" "$cases/one-block" "$cases/one-block/case.safetensors" >output
  expect output
done
