"""What is computed: golden cases, every kind of tensor, every call, files, buffers, caches."""

import array
import json
import math
import mmap
import tempfile
import unittest
from pathlib import Path

import seerattn
from seerattn import Rope, Select
from support import (
    GOLDEN, Case, WithContext, f32, floats, needs_numpy, needs_torch, numpy, problem, read_safetensors, small_gates, torch,
)  # fmt: skip


def mask_bits(mask, blocks):
    """Of a packed B32 Tensor [..., W]: rows of 0 and 1."""
    words = array.array("I", mask.tobytes())
    per_row = mask.shape[-1]
    rows = [words[begin : begin + per_row] for begin in range(0, len(words), per_row)]
    return [[row[j // 32] >> j % 32 & 1 for j in range(blocks)] for row in rows]


class Golden(WithContext):
    """Against the original code in float64; inputs are bf16, sums f32."""

    def check(self, name):
        case = Case(name)
        gates = self.ctx.load(case.folder)
        self.assertEqual(gates.config.head_dim, case.about["head_dim"])
        wide = [f32(floats(x), x.shape) for x in (case.q, case.k, case.v)]
        exact = self.ctx.prefill(gates, case.layer, *wide, lse=True, mask=True)
        self.assertLess(self.error(case, exact.out), 1e-4)
        self.assertClose(floats(exact.lse), floats(case.tensors["lse"]), 1e-3)
        self.assertEqual(exact.stats.density, case.about["density"])
        self.assertGreater(exact.stats.device_ns, 0)
        rounded = self.ctx.prefill(gates, case.layer, case.q, case.k, case.v)
        self.assertLess(self.error(case, rounded.out), 1e-2)

    @staticmethod
    def error(case, result):
        """Relative, of the rows that the case has."""
        out, wanted = floats(result), floats(case.tensors["out"])
        width, stored = case.q.shape[2] * case.q.shape[3], case.tensors["out_rows"]
        rows = array.array("q" if stored.dtype.itemsize == 8 else "i", stored.tobytes())
        error = norm = 0.0
        for sequence in range(case.q.shape[0]):
            for at, row in enumerate(rows):
                mine = out[(sequence * case.q.shape[1] + row) * width :][:width]
                theirs = wanted[(sequence * len(rows) + at) * width :][:width]
                error += sum((a - b) ** 2 for a, b in zip(mine, theirs))
                norm += sum(b * b for b in theirs)
        return math.sqrt(error / norm)

    def test_llama_tail(self):
        self.check("llama-tail")

    def test_batch(self):
        self.check("batch")

    def test_double_gate(self):
        self.check("double-gate")

    def test_gate_scores(self):
        case = Case("llama-tail")
        gates = self.ctx.load(case.folder)
        blocks = math.ceil(case.q.shape[1] / gates.config.block_size)
        result = self.ctx.gate(gates, case.layer, case.q, case.k, scores=True, mask=True)
        self.assertEqual(result.scores.shape, case.tensors["gate_probs"].shape)
        self.assertClose(floats(result.scores), floats(case.tensors["gate_probs"]), 1e-3)
        again = self.ctx.select(result.scores, Select.threshold(case.about["threshold"]), q_len=1000, k_len=1000)
        self.assertEqual(mask_bits(again.mask, blocks), mask_bits(result.mask, blocks))
        logits = self.ctx.gate(gates, case.layer, case.q, case.k, scores=True, logits=True).scores
        self.assertEqual(floats(logits)[1], -math.inf)  # above the triangle
        self.assertAlmostEqual(floats(logits)[0], floats(case.tensors["gate_logits"])[0], delta=1e-2)

    def test_a_mask_of_ones_own_is_dense_attention(self):
        q, k, v = problem()
        every = seerattn.Tensor(b"\xff" * (2 * 5 * 4), "B32", (1, 2, 5, 1))
        dense = self.ctx.attention(q, k, v, rope=Rope.of_theta(10000), block_size=32)
        masked = self.ctx.attention(q, k, v, mask=every, rope=Rope.of_theta(10000), block_size=32)
        self.assertEqual(dense.out.tobytes(), masked.out.tobytes())
        first = floats(dense.out)[:64]
        self.assertClose(first, list(floats(v)[:32]) * 2, 1e-6)  # the first token sees only itself
        self.assertIsNone(dense.stats.density)


class Selection(WithContext):
    def test_methods(self):
        q, k, v = problem(tokens=32 * 12)
        gates = small_gates(self.ctx, select=Select.ratio(0.2))
        self.assertEqual(gates.config.select.value, 0.2)

        def density(select=None):
            return self.ctx.prefill(gates, 0, q, k, v, select=select).stats.density

        self.assertEqual(density(Select.all()), 1)
        self.assertEqual(density(), density(Select.ratio(0.2)))
        self.assertLess(density(Select.ratio(0.2)), density(Select.ratio(0.6)))
        self.assertEqual(density(Select.budget(32, last_dense_rows=-1)), 12 / 78)
        self.assertGreater(density(Select.budget(32, last_dense_rows=-1, keep_first=True)), 12 / 78)
        self.assertLess(density(Select.threshold(0.9, last_dense_rows=-1)), 0.3)

    def test_ropes(self):
        q, k, v = problem()
        theta = self.ctx.attention(q, k, v, rope=Rope.of_theta(500.0)).out.tobytes()
        values = [500.0 ** (-i / 16) for i in range(16)]
        table = self.ctx.attention(q, k, v, rope=Rope.of_inv_freq(values)).out
        self.assertClose(floats(table), array.array("f", theta), 1e-5)
        self.assertNotEqual(self.ctx.attention(q, k, v).out.tobytes(), theta)
        scaled = self.ctx.attention(q, k, v, softmax_scale=1e-6).out  # every visible key weighs the same
        self.assertAlmostEqual(floats(scaled)[64], (floats(v)[0] + floats(v)[32]) / 2, places=4)

    def test_packed_sequences_equal_sequences_alone(self):
        q, k, v = problem(tokens=100)
        gates = small_gates(self.ctx, select=Select.ratio(0.5))
        offsets = [0, 33, 33, 100]
        width, kv_width = 2 * 32 * 4, 32 * 4
        flat = [seerattn.Tensor(x.tobytes(), "F32", x.shape[1:]) for x in (q, k, v)]
        packed = self.ctx.prefill(gates, 0, *flat, sequences=offsets, lse=True, mask=True, scores=True)
        self.assertEqual(packed.lse.shape, (2, 100))
        self.assertEqual(packed.mask.shape, (2, 2 + 3, 1))
        self.assertEqual(packed.scores.shape, (2, 2 + 3, 3))
        for begin, end in ((0, 33), (33, 100)):
            part = [
                seerattn.Tensor(x.tobytes()[begin * w : end * w], "F32", (1, end - begin, *x.shape[2:]))
                for x, w in ((q, width), (k, kv_width), (v, kv_width))
            ]
            alone = self.ctx.prefill(gates, 0, *part)
            self.assertEqual(alone.out.tobytes(), packed.out.tobytes()[begin * width : end * width])

    def test_chunks_with_a_gate_cache(self):
        q, k, v = problem(tokens=32 * 6)
        gates = small_gates(self.ctx)
        select = Select.threshold(0.2, last_dense_rows=-1)
        whole = self.ctx.prefill(gates, 0, q, k, v, select=select).out.tobytes()
        cache = seerattn.GateCache(self.ctx, gates, max_tokens=32 * 6)
        parts, width, kv_width = [], 2 * 32 * 4, 32 * 4
        for begin, end in ((0, 64), (64, 192)):
            chunk = seerattn.Tensor(q.tobytes()[begin * width : end * width], "F32", (1, end - begin, 2, 32))
            keys = [seerattn.Tensor(x.tobytes()[: end * kv_width], "F32", (1, end, 1, 32)) for x in (k, v)]
            parts.append(self.ctx.prefill(gates, 0, chunk, *keys, select=select, cache=cache).out.tobytes())
            self.assertEqual(cache.length(0), end)
        self.assertEqual(b"".join(parts), whole)
        with self.assertRaises(seerattn.CacheStateError):
            self.ctx.prefill(gates, 0, chunk, *keys, cache=cache)
        cache.truncate(70)
        self.assertEqual(cache.length(0), 64)

    def test_workspace(self):
        gates = small_gates(self.ctx)
        small = self.ctx.prefill_workspace(gates, (1, 256, 2, 32), (1, 256, 1, 32), "F32")
        large = self.ctx.prefill_workspace(gates, (1, 4096, 2, 32), (1, 4096, 1, 32), "F32", scores=True, mask=True)
        self.assertLess(0, small)
        self.assertLess(small, large)
        tight = seerattn.Context("cpu", workspace_limit=1)
        q, k, v = problem()
        with self.assertRaises(seerattn.OutOfMemoryError) as caught:
            tight.prefill(small_gates(tight), 0, q, k, v)
        self.assertIsInstance(caught.exception, MemoryError)


class Kinds(WithContext):
    """The same numbers in every kind of object give the same bytes."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gates = small_gates(cls.ctx, select=Select.ratio(0.4))
        cls.problem = problem()
        cls.wanted = cls.ctx.prefill(cls.gates, 0, *cls.problem).out.tobytes()

    def test_mmap_and_offsets(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"head" + b"".join(x.tobytes() for x in self.problem))
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                begin, tensors = 4, []
                for x in self.problem:
                    tensors.append(seerattn.Tensor(data, "F32", x.shape, offset=begin))
                    begin += x.nbytes
                self.assertTrue(tensors[0].readonly)
                self.assertEqual(self.ctx.prefill(self.gates, 0, *tensors).out.tobytes(), self.wanted)
                with self.assertRaises(BufferError):  # the view keeps the memory where it is
                    data.close()
                del tensors

    def test_memoryviews(self):
        views = [memoryview(x.tobytes()).cast("f", x.shape) for x in self.problem]
        result = self.ctx.prefill(self.gates, 0, *views)
        self.assertIsInstance(result.out, seerattn.Tensor)
        self.assertEqual(result.out.tobytes(), self.wanted)

    def test_strided_tensors(self):
        q, k, v = self.problem
        wide = bytearray(2 * q.nbytes)
        step = 2 * 32 * 4
        for token in range(130):
            wide[2 * token * step : (2 * token + 1) * step] = q.tobytes()[token * step : (token + 1) * step]
        spaced = seerattn.Tensor(wide, "F32", q.shape, strides=(130 * 128, 128, 32, 1))
        self.assertEqual(self.ctx.prefill(self.gates, 0, spaced, k, v).out.tobytes(), self.wanted)

    def test_buffers(self):
        buffers = [seerattn.Buffer(self.ctx, x.nbytes) for x in self.problem]
        for buffer, x in zip(buffers, self.problem):
            buffer.write(x.tobytes())
        views = [buffer.tensor("F32", x.shape) for buffer, x in zip(buffers, self.problem)]
        out = seerattn.Buffer(self.ctx, len(self.wanted))
        result = self.ctx.prefill(self.gates, 0, *views, out=out.tensor("F32", self.problem[0].shape))
        self.assertEqual(out.read(), self.wanted)
        self.assertEqual(out.read(8, offset=16), self.wanted[16:24])
        self.assertNotEqual(out.address, 0)
        self.assertIsInstance(result.out, seerattn.Tensor)

    @needs_numpy
    def test_numpy(self):
        q, k, v = (numpy.array(x) for x in self.problem)  # through Tensor's __array_interface__
        result = self.ctx.prefill(self.gates, 0, q, k, v, lse=True, mask=True, scores=True)
        self.assertIsInstance(result.out, numpy.ndarray)
        self.assertEqual(result.out.tobytes(), self.wanted)
        self.assertEqual((result.lse.dtype, result.lse.shape), (numpy.float32, (1, 2, 130)))
        self.assertEqual((result.mask.dtype, result.mask.shape), (numpy.uint32, (1, 2, 5, 1)))
        heads_first = numpy.ascontiguousarray(q.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        self.assertFalse(heads_first.flags.c_contiguous)
        out = numpy.zeros((1, 2, 130, 32), numpy.float32).transpose(0, 2, 1, 3)
        self.assertIs(self.ctx.prefill(self.gates, 0, heads_first, k, v, out=out).out, out)
        self.assertEqual(out.tobytes(), self.wanted)
        half = self.ctx.prefill(self.gates, 0, *(x.astype(numpy.float16) for x in (q, k, v))).out
        self.assertEqual(half.dtype, numpy.float16)
        self.assertLess(abs(half - result.out).max(), 2e-2)
        bytes_a_block = numpy.ones((1, 2, 5, 5), bool)
        dense = self.ctx.attention(q, k, v, mask=bytes_a_block, block_size=32).out
        self.assertEqual(dense.tobytes(), self.ctx.attention(q, k, v, block_size=32).out.tobytes())

    @needs_numpy
    def test_dlpack_of_numpy(self):
        class OnlyDLPack:
            """Neither NumPy's interface nor the buffer protocol: jax, cupy and others are so."""

            def __init__(self, array, versioned):
                self.array, self.versioned, self.taken = array, versioned, 0

            def __dlpack_device__(self):
                return self.array.__dlpack_device__()

            def __dlpack__(self, **options):
                if not self.versioned and "max_version" in options:
                    raise TypeError("an old producer")
                self.taken += 1
                try:
                    return self.array.__dlpack__(**options)
                except TypeError:
                    return self.array.__dlpack__()

        for versioned in (False, True):
            arrays = [OnlyDLPack(numpy.array(x), versioned) for x in self.problem]
            result = self.ctx.prefill(self.gates, 0, *arrays)
            self.assertIsInstance(result.out, seerattn.Tensor)
            self.assertEqual(result.out.tobytes(), self.wanted)
            self.assertEqual([x.taken for x in arrays], [1, 1, 1])

    @needs_torch
    def test_torch(self):
        q, k, v = (x.torch().clone() for x in self.problem)
        result = self.ctx.prefill(self.gates, 0, q, k, v, lse=True, mask=True)
        self.assertIsInstance(result.out, torch.Tensor)
        self.assertEqual(bytes(result.out.numpy().tobytes()) if numpy else self.wanted, self.wanted)
        self.assertEqual(result.mask.dtype, torch.int32)
        heads_first = q.transpose(1, 2).contiguous().transpose(1, 2)
        self.assertTrue(torch.equal(self.ctx.prefill(self.gates, 0, heads_first, k, v).out, result.out))
        again = self.ctx.attention(q, k, v, mask=result.mask, rope=Rope.of_theta(10000), block_size=32)
        self.assertTrue(torch.allclose(again.out, result.out, atol=1e-6))
        low = self.ctx.prefill(self.gates, 0, q.bfloat16(), k.bfloat16(), v.bfloat16()).out
        self.assertEqual(low.dtype, torch.bfloat16)
        self.assertLess((low.float() - result.out).abs().max().item(), 0.05)
        self.assertTrue(torch.equal(self.ctx.prefill(self.gates, 0, q.requires_grad_(), k, v).out, result.out))

    @needs_torch
    def test_dlpack_of_torch(self):
        class OnlyDLPack:
            def __init__(self, tensor):
                self.tensor = tensor

            def __dlpack_device__(self):
                return self.tensor.__dlpack_device__()

            def __dlpack__(self, **options):
                try:
                    return self.tensor.__dlpack__(**options)
                except TypeError:
                    options.pop("max_version")
                    return self.tensor.__dlpack__(**options)

        result = self.ctx.prefill(self.gates, 0, *(OnlyDLPack(x.torch()) for x in self.problem))
        self.assertEqual(result.out.tobytes(), self.wanted)


class Models(WithContext):
    def test_load_save_memory_arrays(self):
        case = Case("double-gate")
        gates = self.ctx.load(case.folder)
        wanted = self.ctx.prefill(gates, case.layer, case.q, case.k, case.v).out.tobytes()
        with tempfile.TemporaryDirectory() as folder:
            gates.save(folder)
            saved = Path(folder) / "attn_gate_weights.safetensors"
            seen = []
            again = self.ctx.load(Path(folder), safetensors_only=True, progress=lambda done, total: seen.append((done, total)))
            self.assertEqual(again.config, gates.config)
            self.assertEqual(seen[-1][0], seen[-1][1])
            text = (Path(folder) / "config.json").read_bytes()
            image = saved.read_bytes()
            weights = read_safetensors(saved)
        memory = seerattn.Model.from_memory(self.ctx, text, image)
        arrays = seerattn.Model.from_arrays(
            self.ctx,
            gates.config,
            [
                tuple(weights[f"model.layers.{n}.self_attn.attn_gate.mask_linear_{x}.weight"] for x in "qk")
                for n in range(gates.config.layers)
            ],
        )
        for model in (again, memory, arrays):
            result = self.ctx.prefill(model, case.layer, case.q, case.k, case.v)
            self.assertEqual(result.out.tobytes(), wanted)

    def test_a_part_of_a_model(self):
        gates = self.ctx.load(GOLDEN / "llama-tail", first_layer=1, layer_count=2)
        self.assertEqual((gates.config.first_layer, gates.config.layers), (1, 2))
        with self.assertRaisesRegex(seerattn.InvalidArgumentError, "layer"):
            self.ctx.prefill(gates, 0, *problem(tokens=1, heads=2, kv_heads=1, dim=128))
        with self.assertRaises(TypeError):
            self.ctx.load(GOLDEN / "llama-tail", layers=1)

    def test_bad_files(self):
        for folder, kind, natural in (
            (GOLDEN / "absent", seerattn.FileError, OSError),
            (GOLDEN, seerattn.FileError, OSError),
        ):
            with self.assertRaises(kind) as caught:
                self.ctx.load(folder)
            self.assertIsInstance(caught.exception, natural)
        hostile = GOLDEN.parent / "hostile"
        text = (hostile / "config.json").read_text("utf-8")
        with self.assertRaises(seerattn.UnsafeFileError):
            seerattn.Model.from_memory(self.ctx, text, (hostile / "bad-os-system.pth").read_bytes())
        with self.assertRaises(seerattn.FormatError):
            seerattn.Model.from_memory(self.ctx, "{", b"")
        with self.assertRaises(seerattn.ModelMismatchError):
            seerattn.Model.from_memory(self.ctx, text, (hostile / "bad-missing-layer.pth").read_bytes())

    def test_devices(self):
        found = seerattn.devices("cpu")
        self.assertEqual(found[0].backend, seerattn.Backend.CPU)
        self.assertIn("BF16", found[0].dtypes)
        self.assertEqual(self.ctx.info.name, found[0].name)
        json.dumps(found[0].detail)
        if not seerattn.devices("cuda"):
            with self.assertRaises(seerattn.UnsupportedError):
                seerattn.Context("cuda")


if __name__ == "__main__":
    unittest.main()
