"""torch operators: values, fake kernels, compiled graphs, gradients refused."""

import unittest

import seerattn
from support import needs_torch, torch

try:
    import seerattn.torch as seer
except ImportError as error:
    seer, reason = None, str(error)
else:
    reason = ""


@needs_torch
class OldTorch(unittest.TestCase):
    def test_says_what_it_needs(self):
        if seer is None:
            self.assertIn("seerattn.torch needs torch 2.4 or later", reason)


@unittest.skipIf(seer is None, reason or "torch is not installed")
class Operators(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.manual_seed(1)
        cls.q, cls.k, cls.v = torch.randn(2, 200, 4, 32), torch.randn(2, 200, 2, 32), torch.randn(2, 200, 2, 32)
        config = seerattn.GateConfig(
            1, 4, 2, 32, 32, block_size=32, rope=seerattn.Rope.of_theta(10000.0), select=seerattn.Select.ratio(0.4)
        )
        cls.gates = seerattn.Model.from_arrays(seer.context(), config, [torch.randn(4, 96, 32) / 8])

    def test_values(self):
        wanted = seer.context().prefill(self.gates, 0, self.q, self.k, self.v)
        self.assertTrue(torch.equal(seer.prefill(self.gates, 0, self.q, self.k, self.v), wanted.out))
        every = seer.prefill(self.gates, 0, self.q, self.k, self.v, select=seerattn.Select.all())
        self.assertGreater((every - wanted.out).abs().max().item(), 1e-3)
        mask = seer.gate(self.gates, 0, self.q, self.k)
        self.assertTrue(torch.equal(mask, seer.context().gate(self.gates, 0, self.q, self.k).mask))

    def test_attention_is_torchs(self):
        out, lse = seer.attention(self.q, self.k, self.v)
        heads_first = [x.transpose(1, 2) for x in (self.q, self.k.repeat_interleave(2, 2), self.v.repeat_interleave(2, 2))]
        wanted = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)
        self.assertTrue(torch.allclose(out, wanted, atol=1e-5))
        scores = heads_first[0] @ heads_first[1].transpose(2, 3) / 32**0.5
        future = torch.ones(200, 200, dtype=torch.bool).triu(1)
        self.assertTrue(torch.allclose(lse, scores.masked_fill(future, -torch.inf).logsumexp(-1), atol=1e-4))
        mask = torch.zeros(2, 4, 7, 7, dtype=torch.bool)
        mask[..., range(7), range(7)] = True
        diagonal, _ = seer.attention(self.q, self.k, self.v, mask, block_size=32)
        self.assertTrue(torch.allclose(diagonal[:, :32], out[:, :32], atol=1e-6))
        self.assertGreater((diagonal[:, 32:] - out[:, 32:]).abs().max().item(), 1e-3)

    def test_operators_are_sound(self):
        """torch's own checks: schema, fake kernel against the real one, autograd's registration, compiled twice."""
        q, k, v = self.q, self.k, self.v
        mask = seer.gate(self.gates, 0, q, k)
        gates = seer.gates_id(self.gates)
        ops = torch.ops.seerattn
        torch.library.opcheck(ops.prefill.default, (q, k, v, gates, 0, 2, 0.5, 0, 0, 0.0, 0))
        torch.library.opcheck(ops.gate.default, (q, k, gates, 0, 32, 2, 0.5, 0, 0, 0))
        torch.library.opcheck(ops.attention.default, (q, k, v, mask, 32, 0.0))
        torch.library.opcheck(ops.attention.default, (q.transpose(1, 2).contiguous().transpose(1, 2), k, v, None, 32, 0.1))

    def test_in_graphs(self):
        def layer(q, k, v):
            mask = seer.gate(self.gates, 0, q, k)
            out, _ = seer.attention(q * 2, k, v, mask, block_size=32)
            return seer.prefill(self.gates, 0, q, k, v) + out

        wanted = layer(self.q, self.k, self.v)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        self.assertTrue(torch.equal(compiled(self.q, self.k, self.v), wanted))
        with torch.device("meta"):
            shapes = torch.empty(2, 200, 4, 32), torch.empty(2, 200, 2, 32), torch.empty(2, 200, 2, 32)
        self.assertEqual(layer(*shapes).shape, wanted.shape)

    def test_gradients_are_refused_where_they_would_pass(self):
        q = self.q.clone().requires_grad_()
        for out in (
            seer.prefill(self.gates, 0, q, self.k, self.v),
            seer.attention(q, self.k, self.v)[0],
        ):
            with self.assertRaisesRegex(NotImplementedError, "no gradient passes through"):
                out.sum().backward()

    def test_ids_of_models(self):
        self.assertEqual(seer.gates_id(self.gates), seer.gates_id(self.gates))
        with self.assertRaisesRegex(seerattn.InvalidArgumentError, "gates is 12345"):
            torch.ops.seerattn.prefill(self.q, self.k, self.v, 12345, 0, 0, 0.0, 0, 0, 0.0, 0)

    def test_devices(self):
        self.assertIs(seer.context("cpu"), seer.context(torch.device("cpu")))
        with self.assertRaises(seerattn.MemoryKindError):
            seer.context("meta")


if __name__ == "__main__":
    unittest.main()
