#!/usr/bin/env python3
"""One prefill with a folder of gates: prefill.py GATE_FOLDER TENSORS.safetensors [LAYER]"""

import json
import os
import sys
import zlib

import seerattn


def read_tensors(path):
    """{name: seerattn.Tensor} of a .safetensors file, all in one piece of memory."""
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: seerattn.Tensor(data, entry["dtype"], entry["shape"], offset=start + entry["data_offsets"][0])
        for name, entry in header.items()
        if name in ("q", "k", "v")
    }


folder, path, layer = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["0"])[0])
tensors = read_tensors(path)

with seerattn.Context(os.environ.get("SEER_BACKEND", "auto")) as ctx:
    gates = ctx.load(folder)
    result = ctx.prefill(gates, layer, tensors["q"], tensors["k"], tensors["v"])

print(f"density  {100 * result.stats.density:.1f} %")
print(f"time     {result.stats.device_ns / 1e6:.2f} ms")
print(f"checksum {zlib.crc32(result.out.tobytes()):08x}")
