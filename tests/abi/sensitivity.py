#!/usr/bin/env python3
"""Which moved fields would the client of tests/abi notice? By hand, after the client or the header changed.

sensitivity.py LIBRARY: in a copy of the header, swaps each two neighbouring fields of equal size of each struct, one
pair at a time, compiles the client with it and runs it with the library. It must fail each time; pairs that pass are
printed. Two cannot be told apart on the CPU: a device's ordinal and vendor_id (0), an allocator's device_alloc and
device_free (not called).
"""
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layout

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
HEADER = os.path.join(ROOT, "capi", "include", "seerattn", "seerattn.h")
SIZES = {"char[256]": 256, "seer_tensor": 128, "seer_rope": 48, "seer_select_spec": 40, "seer_sequences": 24}


def size(kind):
    if kind in SIZES:
        return SIZES[kind]
    base, _, extent = kind.partition("[")
    one = 8 if "*" in base or "64" in base or base in ("double",) or base.endswith("_fn") else 4
    return one * int(extent[:-1]) if extent else one


def main(library):
    text = open(HEADER, encoding="utf-8").read()
    missed = tried = 0
    for name, fields in layout.parse(HEADER)["structs"].items():
        for (a, a_kind), (b, b_kind) in zip(fields, fields[1:]):
            if size(a_kind) != size(b_kind) or a == "struct_size":
                continue
            begin = text.index(f"typedef struct {name} {{")
            end = text.index(f"}} {name};", begin)
            # Only names move: the types of a pair may differ, and then the compiler would object to the client.
            body = text[begin:end]
            body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
            line_a = next(l for l in re.findall(r"[^;{]*;", body) if re.search(rf"\b{a}\b[\[\];)]|\*{a}\)", l))
            line_b = next(l for l in re.findall(r"[^;{]*;", body) if re.search(rf"\b{b}\b[\[\];)]|\*{b}\)", l))
            swapped = body.replace(line_a, "\0").replace(line_b, line_a).replace("\0", line_b)
            tried += 1
            with tempfile.TemporaryDirectory() as folder:
                os.makedirs(os.path.join(folder, "include", "seerattn"))
                os.makedirs(os.path.join(folder, "scratch"))
                with open(os.path.join(folder, "include", "seerattn", "seerattn.h"), "w", encoding="utf-8") as out:
                    out.write(text[:begin] + swapped + text[end:])
                client = os.path.join(folder, "client")
                here = os.path.join(ROOT, "tests", "abi")
                sources = [os.path.join(here, f) for f in ("client.c", "client_setup.c", "client_compute.c")]
                flags = ["-std=gnu11", "-D_GNU_SOURCE", "-I" + os.path.join(folder, "include"), "-I" + ROOT]
                subprocess.run(["cc", *flags, *sources, "-o", client, "-lm", "-ldl"], check=True)
                run = subprocess.run([client, library, os.path.join(ROOT, "tests", "golden", "qwen-yarn"),
                                      os.path.join(folder, "scratch")], capture_output=True, timeout=120)
                if run.returncode == 0:
                    missed += 1
                    print(f"not noticed: {name}.{a} and .{b}", flush=True)
    print(f"{tried} swaps, {missed} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(os.path.abspath(sys.argv[1])))
