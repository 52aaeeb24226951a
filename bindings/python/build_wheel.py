"""Builds the wheel (PEP 517) with nothing but Python's library, so that it works without a network.

With SEERATTN_LIB naming libseerattn.so.0, or the folder that holds it, the wheel carries that library and what it needs
beyond a Linux system's base, and is for that platform; without, it is pure Python and looks for the system's library."""

import base64
import hashlib
import io
import os
import re
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

try:
    import tomllib
except ImportError:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
SONAME = "libseerattn.so.0"
MACHINES = {62: "x86_64", 183: "aarch64"}  # ELF's e_machine
# Libraries that manylinux lets a wheel expect (PEP 600's policies).
BASE = re.compile(r"(linux-vdso|ld-linux[-\w]*|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libz)\.so")
LIBSTDCXX = ((20, 24), (25, 28), (28, 31), (29, 34), (30, 35), (31, 38), (33, 40))  # GLIBCXX_3.4.X, glibc 2.N
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


def _project():
    return tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]


def _metadata():
    project = _project()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License: {project['license']}",
        f"Keywords: {','.join(project['keywords'])}",
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown",
    ]
    for extra, wanted in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {name}; extra == "{extra}"' for name in wanted]
    return "\n".join(lines) + "\n\n" + (HERE / project["readme"]).read_text("utf-8")


def _library():
    """The library to bundle, or None."""
    named = os.environ.get("SEERATTN_LIB")
    if not named:
        return None
    path = Path(named)
    path = path / SONAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"SEERATTN_LIB: there is no {path}")
    return path


def _needed(path):
    """{name: path} of the libraries beyond the base that it loads."""
    lines = subprocess.run(["ldd", str(path)], check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        words = line.split()
        if not words or BASE.match(Path(words[0]).name):
            continue
        if len(words) < 3 or words[2] == "not":
            raise RuntimeError(f"{path} needs {words[0]}, which is not installed")
        found[words[0]] = Path(words[2])
    return found


def _tag(images):
    """manylinux_2_N: the oldest glibc whose systems have the newest symbols that one of the libraries wants. A system's
    libstdc++ is as old as its glibc: the second table says which glibc came with which."""
    machine = struct.unpack_from("<H", images[0], 18)[0]
    if images[0][:4] != b"\x7fELF" or machine not in MACHINES:
        raise RuntimeError("the library is not for x86_64 or aarch64 Linux")

    def newest(pattern):
        return max((int(n) for image in images for n in re.findall(pattern, image)), default=0)

    glibcxx = newest(rb"GLIBCXX_3\.4\.(\d+)(?=\0)")
    needs = [17, newest(rb"GLIBC_2\.(\d+)(?=[.\0])")] + [glibc for cxx, glibc in LIBSTDCXX if glibcxx >= cxx]
    return f"py3-none-manylinux_2_{max(needs)}_{MACHINES[machine]}"


def _write(path, tag, files):
    """files: (name in the archive, bytes, whether it is executable)."""
    name = f"{_project()['name']}-{_project()['version']}"
    info = f"{name}.dist-info"
    pure = "true" if tag == "py3-none-any" else "false"
    wheel = f"Wheel-Version: 1.0\nGenerator: seerattn\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    files = [*files, (f"{info}/METADATA", _metadata().encode(), False), (f"{info}/WHEEL", wheel.encode(), False)]
    licence = HERE.parents[1] / "LICENSE"
    if licence.is_file():
        files.append((f"{info}/LICENSE", licence.read_bytes(), False))
    record = []
    for where, data, _ in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{where},sha256={digest},{len(data)}\n")
    files.append((f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]).encode(), False))
    target = Path(path) / f"{name}-{tag}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for where, data, executable in files:
            entry = zipfile.ZipInfo(where, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(entry, data)
    return target.name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    package = HERE / "src" / "seerattn"
    sources = [path for path in sorted(package.iterdir()) if path.suffix == ".py" or path.name == "py.typed"]
    files = [(f"seerattn/{path.name}", path.read_bytes(), False) for path in sources]
    library, tag = _library(), "py3-none-any"
    if library is not None:
        bundled = [(SONAME, library), *sorted(_needed(library).items())]
        images = [path.read_bytes() for _, path in bundled]
        tag = _tag(images)
        files += [(f"seerattn/lib/{name}", image, True) for (name, _), image in zip(bundled, images)]
    return _write(wheel_directory, tag, files)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return _write(wheel_directory, "py3-none-any", [("seerattn.pth", f"{HERE / 'src'}\n".encode(), False)])


def build_sdist(sdist_directory, config_settings=None):
    name = f"{_project()['name']}-{_project()['version']}"
    names = ["pyproject.toml", "README.md", "build_wheel.py", "src/seerattn"]

    def wanted(entry):
        return None if entry.name.endswith(("__pycache__", "seerattn/lib")) else entry

    with tarfile.open(Path(sdist_directory) / f"{name}.tar.gz", "w:gz") as archive:
        for entry in names:
            archive.add(HERE / entry, f"{name}/{entry}", filter=wanted)
        archive.addfile(*_member(f"{name}/PKG-INFO", _metadata().encode()))
    return f"{name}.tar.gz"


def _member(name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    return entry, io.BytesIO(data)
