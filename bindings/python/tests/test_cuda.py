"""Torch tensors on an NVIDIA GPU: the values, the current stream, graphs, models. Skipped where there is none."""

import unittest
import warnings

import seerattn
from seerattn import Select
from support import torch

try:
    import seerattn.torch as seer
except ImportError:
    seer = None
try:
    import seerattn.transformers as hf
    from hf_models import average_gates, random_model
except ImportError:
    hf = None

there = seer is not None and torch.cuda.is_available() and bool(seerattn.devices("cuda"))


def relative(a, b):
    return ((a.float().cpu() - b.float().cpu()).norm() / b.float().cpu().norm()).item()


@unittest.skipIf(not there, "no torch with CUDA, or the library has no CUDA device")
class Operators(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.manual_seed(1)
        shape = (1, 700, 8, 128), (1, 700, 2, 128), (1, 700, 2, 128)
        cls.host = [torch.randn(s).bfloat16() for s in shape]
        cls.q, cls.k, cls.v = (x.cuda() for x in cls.host)
        cls.config = seerattn.GateConfig(
            1, 8, 2, 128, 128, rope=seerattn.Rope.of_theta(10000.0), select=Select.ratio(0.4, last_dense_rows=1)
        )
        cls.weights = torch.randn(8, 384, 128) / 20
        cls.gates = seerattn.Model.from_arrays(seer.context("cuda"), cls.config, [cls.weights])
        cls.host_gates = seerattn.Model.from_arrays(seer.context("cpu"), cls.config, [cls.weights])

    def test_values_are_those_of_the_processor(self):
        out = seer.prefill(self.gates, 0, self.q, self.k, self.v)
        self.assertTrue(out.is_cuda)
        self.assertLess(relative(out, seer.prefill(self.host_gates, 0, *self.host)), 1e-2)
        mask = seer.gate(self.gates, 0, self.q, self.k)
        wanted = seer.gate(self.host_gates, 0, *self.host[:2])
        self.assertTrue(mask.is_cuda)
        self.assertTrue(torch.equal(mask.cpu(), wanted))
        got, lse = seer.attention(self.q, self.k, self.v, mask)
        out, wanted_lse = seer.attention(*self.host, wanted)
        self.assertLess(relative(got, out), 1e-2)
        self.assertLess((lse.cpu() - wanted_lse).abs().max().item(), 2e-2)

    def test_other_layouts_types_and_lengths(self):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for dim in (64, 80, 128):
                q, k, v = (torch.randn(2, h, 131, dim).to(dtype).transpose(1, 2) for h in (4, 2, 2))
                wanted, _ = seer.attention(q, k, v)
                got, _ = seer.attention(q.cuda(), k.cuda(), v.cuda())
                self.assertLess(relative(got, wanted), 2e-2, (dtype, dim))

    def test_the_current_stream_orders_everything(self):
        """Nothing waits: the inputs are still being made when the call is, and the output is used at once."""
        side = torch.cuda.Stream()
        wanted = seer.prefill(self.gates, 0, 2 * self.q, self.k, self.v) + 1
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            for _ in range(20):
                torch.cuda._sleep(2_000_000)
                q = 2 * self.q
                got = seer.prefill(self.gates, 0, q, self.k, self.v)
                del q
                got += 1
        side.synchronize()
        self.assertTrue(torch.equal(got, wanted))

    def test_graph(self):
        q, k, v = self.q.clone(), self.k.clone(), self.v.clone()
        first = seer.prefill(self.gates, 0, q, k, v)  # what is made on first use is made
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = seer.prefill(self.gates, 0, q, k, v)
        graph.replay()
        self.assertTrue(torch.equal(out, first))
        q.copy_(self.q.flip(1))
        graph.replay()
        self.assertTrue(torch.equal(out, seer.prefill(self.gates, 0, q, k, v)))
        self.assertFalse(torch.equal(out, first))

    def test_compiled(self):
        def layer(q, k, v):
            return seer.prefill(self.gates, 0, q * 2, k, v) + 1

        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        self.assertTrue(torch.equal(compiled(self.q, self.k, self.v), layer(self.q, self.k, self.v)))


@unittest.skipIf(not there or hf is None, "no torch with CUDA, no CUDA device, or no transformers")
class Models(unittest.TestCase):
    def test_a_model_on_the_gpu(self):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")  # a fallback to dense attention must not go unseen
            for dtype, close in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
                model = random_model(dtype=dtype).cuda()
                ids = torch.randint(2, 97, (2, 300)).cuda()
                wanted = model(ids).logits
                gates = average_gates(seer.context("cuda"), model.config)
                sparse = hf.sparsify(model, gates, select=Select.all())
                self.assertLess(relative(model(ids).logits, wanted), close)
                self.assertEqual(sparse.density, 1)
                sparse.select = None
                self.assertGreater(relative(model(ids).logits, wanted), 1e-2)
                self.assertLess(sparse.density, 1)
                sparse.remove()
                self.assertTrue(torch.equal(model(ids).logits, wanted))


if __name__ == "__main__":
    unittest.main()
