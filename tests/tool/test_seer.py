"""The seer command from outside: exit codes, messages, JSON, files. test_seer.py SEER GOLDEN_DIR [unittest options]"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

SEER, GOLDEN = pathlib.Path(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1))
WRAPPER = os.environ.get("MESON_EXE_WRAPPER", "").split()  # Wine, for a build for Windows
COMMANDS = ["devices", "info", "prefill", "check", "convert", "gate-init", "bench"]


def seer(*args, code=0):
    """Runs seer, insists on the exit code and on silence on stderr where it is 0, and returns (stdout, stderr)."""
    done = subprocess.run([*WRAPPER, SEER, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"seer {args}: exit {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    assert code != 0 or done.stderr == "", done.stderr
    return done.stdout, done.stderr


def read_safetensors(path):
    raw = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length :]
    return {k: (v["dtype"], v["shape"], data[slice(*v["data_offsets"])]) for k, v in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[len(data), len(data) + len(raw)])
        data += raw
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def crc32(data):
    return f"{zlib.crc32(data):08x}"


def read_png(path):
    """Width, height and pixels of an 8-bit RGB PNG; insists on its checksums."""
    raw = pathlib.Path(path).read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(raw):
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        body = raw[at + 8 : at + 8 + length]
        assert struct.unpack(">I", raw[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks.append((kind, body))
        at += 12 + length
    assert chunks[0][0] == b"IHDR" and chunks[-1][0] == b"IEND"
    width, height, depth, color = struct.unpack(">IIBB", chunks[0][1][:10])
    assert (depth, color) == (8, 2)
    rows = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    assert len(rows) == height * (1 + 3 * width)
    return width, height, rows


class Tool(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="seer-test-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def copy(self, case):
        """A writable copy of a case folder."""
        target = self.dir / case
        shutil.copytree(GOLDEN / case, target)
        for path in [target, *target.iterdir()]:
            path.chmod(path.stat().st_mode | 0o200)
        return target


class Usage(Tool):
    def test_every_help_teaches_with_an_example(self):
        self.assertIn("First steps", seer("--help")[0])
        for command in COMMANDS:
            self.assertRegex(seer(command, "--help")[0], rf"Examples?:\s[\s\S]*seer {command}", command)

    def test_wrong_usage_is_2_and_names_the_value(self):
        for args, said in [
            ([], "subcommand"),
            (["fly"], "fly"),
            (["info"], "DIR"),
            (["prefill", "x.safetensors"], "--model"),
            (["prefill", "x", "--model", "y", "--backend", "abacus"], "abacus"),
            (["prefill", "x", "--model", "y", "--threshold", "0.1", "--ratio", "0.1"], "at most 1"),
            (["bench", "--dtype", "f8"], "f8"),
            (["bench", "--density", "1.5"], "1.5"),
            (["gate-init", "x"], "--config"),
        ]:
            out, err = seer(*args, code=2)
            self.assertEqual(out, "")
            self.assertIn(said, err, args)

    def test_bad_input_is_1_and_names_the_file(self):
        case = GOLDEN / "llama-tail"
        junk = self.dir / "junk.safetensors"
        junk.write_bytes(b"\xff" * 100)
        cut = self.dir / "cut.safetensors"
        cut.write_bytes((case / "case.safetensors").read_bytes()[:5000])
        for args, said in [
            (["info", self.dir / "absent"], "absent"),
            (["info", self.dir], "config.json"),
            (["prefill", self.dir / "absent.safetensors", "--model", case], "absent.safetensors"),
            (["prefill", junk, "--model", case], "junk.safetensors"),
            (["prefill", cut, "--model", case], "cut.safetensors"),
            (["prefill", case / "case.safetensors", "--model", case, "--prefix", "nope."], "nope.q"),
            (["prefill", case / "case.safetensors", "--model", case, "--layer", "7"], "7"),
            (["prefill", case / "case.safetensors", "--model", case, "--threshold", "2"], "2"),
            (["prefill", case / "case.safetensors", "--model", GOLDEN / "llama-threshold"], "heads"),
            (["gate-init", self.dir / "g", "--layers", 1, "--q-heads", 3, "--kv-heads", 2, "--head-dim", 64], "heads"),
            (["bench", "--heads", "8:3"], "8:3"),
        ]:
            out, err = seer(*args, code=1)
            self.assertEqual(out, "")
            self.assertIn(said, err, args)


class Devices(Tool):
    def test_every_backend_has_devices_or_a_reason(self):
        backends = json.loads(seer("devices", "--json")[0])["backends"]
        self.assertEqual([b["backend"] for b in backends], ["cuda", "vulkan", "cpu"])
        for backend in backends:
            self.assertTrue(backend["devices"] or backend["reason"], backend)
        cpu = backends[2]["devices"]
        self.assertEqual(len(cpu), 1)
        self.assertTrue({"f32", "f16", "bf16"} <= set(cpu[0]["dtypes"].split()))
        self.assertIn("cpu", seer("devices")[0])


class Gates(Tool):
    def test_info(self):
        info = json.loads(seer("info", GOLDEN / "llama-threshold", "--json")[0])
        self.assertEqual(
            {k: info[k] for k in ["layers", "q_heads", "kv_heads", "head_dim", "gate_dim", "block", "gate_type", "form", "dtype", "rope"]},
            dict(layers=2, q_heads=4, kv_heads=1, head_dim=128, gate_dim=128, block=64, gate_type="Qavg_Kmaxminavg",
                 form="single", dtype="bf16", rope="llama3"),
        )
        self.assertEqual(info["bytes"], 2 * 4 * 384 * 128 * 2)
        self.assertEqual(info["select"], dict(method="threshold", threshold=0.08, last_dense_rows=2, keep_first=False, keep_diagonal=False))
        self.assertEqual(json.loads(seer("info", GOLDEN / "double-gate", "--json")[0])["form"], "double")
        self.assertIn("llama3", seer("info", GOLDEN / "llama-threshold")[0])

    def test_convert_keeps_every_bit(self):
        source = self.copy("llama-threshold")
        wanted = read_safetensors(source / "attn_gate_weights.safetensors")
        (source / "attn_gate_weights.safetensors").unlink()  # leaves the .pth
        seer("convert", source, self.dir / "new" / "folder")
        got = read_safetensors(self.dir / "new" / "folder" / "attn_gate_weights.safetensors")
        self.assertEqual(got, wanted)
        ours, theirs = (json.loads(seer("info", d, "--json")[0]) for d in [source, self.dir / "new" / "folder"])
        for j in (ours, theirs):
            j.pop("dir")
        self.assertEqual(ours, theirs)

    def test_convert_takes_the_gates_out_of_a_models_shards(self):
        gates = read_safetensors(GOLDEN / "llama-threshold" / "attn_gate_weights.safetensors")
        source = self.dir / "model"
        source.mkdir()
        shutil.copy(GOLDEN / "llama-threshold" / "config.json", source)
        names = {}
        for number, name in enumerate(gates):
            shard = f"model-0000{number + 1}-of-00002.safetensors"
            other = f"model.layers.{number}.mlp.up_proj.weight"
            write_safetensors(source / shard, {other: ("F32", [2, 3], bytes(24)), name: gates[name]})
            names |= {other: shard, name: shard}
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        seer("convert", source, self.dir / "gates")
        self.assertEqual(read_safetensors(self.dir / "gates" / "attn_gate_weights.safetensors"), gates)
        self.assertIn("architectures", json.loads((self.dir / "gates" / "config.json").read_text()))

    def test_convert_overwrites_only_when_told(self):
        target = self.dir / "target"
        seer("convert", GOLDEN / "llama-tail", target)
        self.assertIn("--force", seer("convert", GOLDEN / "llama-threshold", target, code=1)[1])
        self.assertEqual(json.loads(seer("info", target, "--json")[0])["layers"], 3)
        seer("convert", GOLDEN / "llama-threshold", target, "--force")
        self.assertEqual(json.loads(seer("info", target, "--json")[0])["layers"], 2)

    def test_gate_init(self):
        seer("gate-init", self.dir / "g", "--layers", 2, "--q-heads", 4, "--kv-heads", 2, "--head-dim", 32, "--threshold", 0.01)
        info = json.loads(seer("info", self.dir / "g", "--json")[0])
        self.assertEqual((info["gate_type"], info["form"], info["layers"], info["gate_dim"]), ("Qavg_Kavg", "single", 2, 32))
        self.assertEqual(info["select"], dict(method="threshold", threshold=0.01, last_dense_rows=2, keep_first=True, keep_diagonal=True))
        weights = read_safetensors(self.dir / "g" / "attn_gate_weights.safetensors")
        dtype, shape, data = weights["model.layers.1.self_attn.attn_gate.mask_linear_k.weight"]
        self.assertEqual((dtype, shape), ("BF16", [4, 32, 32]))
        identity = b"".join(b"\x80\x3f" if i == j else b"\0\0" for i in range(32) for j in range(32))
        self.assertEqual(data, 4 * identity)

    def test_gate_init_from_a_model_takes_its_shape_and_rope(self):
        seer("gate-init", self.dir / "g", "--config", GOLDEN / "qwen-yarn" / "config.json")
        model, gate = (json.loads(seer("info", d, "--json")[0]) for d in [GOLDEN / "qwen-yarn", self.dir / "g"])
        for key in ["layers", "q_heads", "kv_heads", "head_dim", "rope"]:
            self.assertEqual(gate[key], model[key])
        self.assertEqual(gate["select"]["method"], "ratio")


class Prefill(Tool):
    case = GOLDEN / "llama-threshold"
    base = ["prefill", case / "case.safetensors", "--model", case, "--layer", 1, "--backend", "cpu"]

    def test_outputs(self):
        out, png = self.dir / "out.safetensors", self.dir / "mask.png"
        run = json.loads(seer(*self.base, "--compare-dense", "--out", out, "--mask-png", png, "--json")[0])
        wanted = json.loads((self.case / "case.json").read_text())
        self.assertAlmostEqual(run["density"], wanted["density"], delta=0.01)
        self.assertTrue(0.5 < run["mass_kept"] < 1 and 0 < run["relative_error"] < 1, run)
        self.assertEqual(len(run["mass_kept_per_head"]), 4)
        files = read_safetensors(out)
        self.assertEqual(files["out"][:2], ("BF16", [1, 1024, 4, 128]))
        self.assertEqual(files["lse"][:2], ("F32", [1, 4, 1024]))
        self.assertEqual(files["block_mask"][:2], ("U8", [1, 4, 16, 16]))
        self.assertEqual(sum(files["block_mask"][2]), run["blocks_kept"])
        self.assertEqual(crc32(files["out"][2]), run["checksum"]["crc32"])
        width, height, rows = read_png(png)
        self.assertTrue(600 < width < 2000 and 600 < height < 2000)
        self.assertGreater(len({rows[i : i + 3] for i in range(1, len(rows) - 3, 3)}), 50)

    def test_text_and_json_agree(self):
        text = seer(*self.base, "--repeat", 2)[0]
        self.assertIn(json.loads(seer(*self.base, "--json")[0])["checksum"]["crc32"], text)

    def test_all_blocks_is_dense_attention(self):
        run = json.loads(seer(*self.base, "--all", "--dtype", "f32", "--compare-dense", "--json")[0])
        self.assertEqual(run["density"], 1)
        self.assertLess(run["relative_error"], 1e-5)
        self.assertAlmostEqual(run["mass_kept"], 1, delta=1e-5)

    def test_dense_rope_follows_the_length(self):
        """dynamic scaling changes its frequencies beyond the trained length: dense must take the same ones as prefill."""
        model = self.copy("llama-threshold")
        config = json.loads((model / "config.json").read_text())
        config |= {"max_position_embeddings": 256, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}
        (model / "config.json").write_text(json.dumps(config))
        run = json.loads(seer("prefill", self.case / "case.safetensors", "--model", model, "--backend", "cpu", "--all", "--dtype",
                              "f32", "--compare-dense", "--json")[0])
        self.assertLess(run["relative_error"], 1e-5)

    def test_selection_options(self):
        kept = {}
        for option in [["--threshold", 0.02], ["--threshold", 0.2], ["--ratio", 0.5], ["--budget", 128]]:
            run = json.loads(seer(*self.base, *option, "--last-dense", -1, "--json")[0])
            self.assertEqual(run["select"]["last_dense_rows"], -1)
            kept[str(option[1])] = run["blocks_kept"]
        self.assertGreater(kept["0.02"], kept["0.2"])
        # Budget: the top two blocks of a row, but at most one in the first row (4 heads, 16 rows).
        self.assertTrue(4 * 16 <= kept["128"] <= 4 * 31, kept)

    def test_a_failed_run_leaves_no_file(self):
        out = self.dir / "out.safetensors"
        seer(*self.base, "--threshold", "nan", "--out", out, code=1)
        self.assertEqual(list(self.dir.iterdir()), [])


class Check(Tool):
    def test_good_case_passes(self):
        out = seer("check", GOLDEN / "one-block", "--backend", "ref")[0]
        self.assertRegex(out, r"\n[1-9]\d* passed, 0 failed\n$")
        result = json.loads(seer("check", GOLDEN / "sparse-rows", "--backend", "ref", "--json")[0])
        self.assertEqual(result["failed"], 0)
        quantities = {r["quantity"] for r in result["results"]}
        self.assertTrue({"inv_freq", "gate_logits", "gate_probs", "block_mask", "empty rows", "lse", "out"} <= quantities)

    def tamper(self, name, offset=0, size=4, value=b"\0\0\x80\x3f"):
        """Overwrites an element of a tensor of the case's file."""
        case = self.copy("llama-tail")
        path = case / "case.safetensors"
        raw = bytearray(path.read_bytes())
        length = struct.unpack("<Q", raw[:8])[0]
        begin = 8 + length + json.loads(raw[8 : 8 + length])[name]["data_offsets"][0] + offset * size
        assert raw[begin : begin + size] != value[:size]
        raw[begin : begin + size] = value[:size]
        path.write_bytes(raw)
        return case

    def test_every_tampered_quantity_fails(self):
        nan = b"\0\0\xc0\x7f"
        mask = read_safetensors(GOLDEN / "llama-tail" / "case.safetensors")["block_mask"][2]
        self.assertGreater(sum(mask[160:176]), 1)  # a row of 16 blocks that is not empty even with one flipped
        for name, kwargs in [
            ("inv_freq", dict(offset=3)),
            ("gate_inv_freq", dict(offset=3)),
            ("gate_logits", dict(value=struct.pack("<f", 3e4))),
            ("gate_probs", dict(value=struct.pack("<f", 0.5))),
            ("lse", dict(offset=9, value=struct.pack("<f", 1e4))),
            ("lse", dict(offset=9, value=nan)),
            ("out", dict(offset=9, value=struct.pack("<f", 1e3))),
            ("out", dict(offset=9, value=nan)),
            ("block_mask", dict(offset=10 * 16 + 3, size=1, value=bytes([1 - mask[10 * 16 + 3]]))),
        ]:
            out = seer("check", self.tamper(name, **kwargs), "--backend", "ref", code=1)[0]
            self.assertRegex(out, rf"FAIL +llama-tail ref \S+ +{name} ", name)
            shutil.rmtree(self.dir / "llama-tail")

    def test_broken_case_fails(self):
        case = self.copy("one-block")
        (case / "case.safetensors").write_bytes(b"short")
        self.assertIn("1 failed", seer("check", case, code=1)[0])

    def test_nothing_checked_is_2(self):
        out, err = seer("check", self.dir, GOLDEN / "README.md", code=2)
        self.assertIn("0 passed, 0 failed", out)
        self.assertIn(str(self.dir), err)


class Bench(Tool):
    def test_json(self):
        run = json.loads(seer("bench", "--tokens", "256,320", "--density", "0.3,1", "--heads", "4:2", "--dim", 32, "--dtype",
                              "f32,bf16", "--backend", "cpu", "--repeat", 2, "--seed", 7, "--json")[0])
        self.assertEqual((run["seed"], run["repeat"]), (7, 2))
        self.assertTrue(run["devices"] and run["build"]["version"])
        self.assertEqual(len(run["results"]), 2 * 2 * (1 + 2 * 2 + 1 + 2))
        for row in run["results"]:
            self.assertGreater(row["time"]["median"], 0)
            self.assertLessEqual(row["time"]["p10"], row["time"]["p90"])
            if row["what"] == "sparse" and row["density"] == 1:
                self.assertEqual(row["sharing_3_rows"], 2)  # rows of 1, 2 and 3 blocks, 3 loaded

    def test_table(self):
        out = seer("bench", "--tokens", 256, "--density", 0.5, "--heads", "2:1", "--dim", 32, "--backend", "ref", "--repeat", 1)[0]
        for word in ["dense", "sparse random", "sparse structured", "gate", "prefill", "GFLOP/s"]:
            self.assertIn(word, out)


if __name__ == "__main__":
    unittest.main()
