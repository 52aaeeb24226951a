"""What the tests share. The environment: SEERATTN_LIB names the library (seerattn itself reads it)."""

import array
import json
import unittest
from pathlib import Path

import seerattn

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"

try:
    import numpy
except ImportError:
    numpy = None

try:
    import torch
except ImportError:
    torch = None

needs_numpy = unittest.skipIf(numpy is None, "NumPy is not installed")
needs_torch = unittest.skipIf(torch is None, "torch is not installed")


def read_safetensors(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: seerattn.Tensor(data, entry["dtype"], entry["shape"], offset=start + entry["data_offsets"][0])
        for name, entry in header.items()
    }


class Case:
    """A golden case: gates, layer, inputs in bf16 and what the original code computes from them."""

    def __init__(self, name):
        self.folder = GOLDEN / name
        self.about = json.loads((self.folder / "case.json").read_text("utf-8"))
        self.layer = self.about["layer"]
        self.tensors = read_safetensors(self.folder / "case.safetensors")
        self.q, self.k, self.v = (self.tensors[name] for name in "qkv")


def floats(tensor):
    """The elements of a packed f32 or bf16 seerattn.Tensor, in f32."""
    raw = tensor.tobytes()
    if tensor.dtype == seerattn.DType.BF16:
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        raw = bytes(wide)
    return array.array("f", raw)


def f32(values, shape):
    """A writable f32 Tensor."""
    return seerattn.Tensor(array.array("f", values), "F32", shape)


def numbers(count, seed=1):
    """Repeatable values in [-1, 1), with a period that divides no shape."""
    values, state = [], seed * 2654435761 % 2**32
    for _ in range(min(count, 4099)):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(state / 2**31 - 1)
    return (array.array("f", values) * (count // 4099 + 1))[:count]


def problem(tokens=130, keys=None, heads=2, kv_heads=1, dim=32, batch=1):
    """Random q, k, v as f32 Tensors."""
    keys = tokens if keys is None else keys
    q = f32(numbers(batch * tokens * heads * dim, 1), (batch, tokens, heads, dim))
    k = f32(numbers(batch * keys * kv_heads * dim, 2), (batch, keys, kv_heads, dim))
    v = f32(numbers(batch * keys * kv_heads * dim, 3), (batch, keys, kv_heads, dim))
    return q, k, v


def small_gates(context, heads=2, kv_heads=1, dim=32, layers=1, **options):
    """Gates in the single form that compare blocks' averages, for problem()'s shapes."""
    config = seerattn.GateConfig(
        layers=layers,
        q_heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        gate_dim=dim,
        block_size=32,
        rope=seerattn.Rope.of_theta(10000),
        **options,
    )
    weights = array.array("f", bytes(4 * heads * 3 * dim * dim))
    for head in range(heads):
        for channel in range(dim):
            weights[(head * 3 * dim + 2 * dim + channel) * dim + channel] = 1
    wk = seerattn.Tensor(weights, "F32", (heads, 3 * dim, dim))
    return seerattn.Model.from_arrays(context, config, [wk] * layers)


class WithContext(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ctx = seerattn.Context("cpu", threads=2)

    @classmethod
    def tearDownClass(cls):
        cls.ctx.close()

    def assertClose(self, got, wanted, tolerance):
        """Largest difference, of two sequences of floats."""
        self.assertEqual(len(got), len(wanted))
        worst = max((abs(a - b) for a, b in zip(got, wanted)), default=0)
        self.assertLessEqual(worst, tolerance)
