"""The demo on captured attention of a real model. test_demo.py BUILD_DIR [unittest options]"""
import ctypes
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import zlib

BUILD = pathlib.Path(sys.argv.pop(1))
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data" / "smollm2"
sys.path.insert(0, str(ROOT / "tools"))

from seerattn_ctypes import BF16, SELECT_ALL, SELECT_RATIO, Seer, SeerError, host_tensor, seer_select_spec  # noqa: E402


def seer(*args):
    return subprocess.run([BUILD / "tools" / "seer", *map(str, args)], check=True, capture_output=True, text=True).stdout


def crc32(data):
    return f"{zlib.crc32(data):08x}"


def read(path):
    """{name: (bytes in a buffer that ctypes can point to, shape)} of a bf16 .safetensors"""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    del header["__metadata__"]
    found = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16", entry
        data = raw[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]]
        found[name] = ctypes.create_string_buffer(data, len(data)), entry["shape"]
    return found


class Demo(unittest.TestCase):
    # What ratio 0.5 keeps of the attention mass: a gate on averages that finds the blocks that matter. Random blocks
    # would keep about 60 %, and dropping the first block of layer 20 costs half.
    def test_table_and_pictures(self):
        with tempfile.TemporaryDirectory() as folder:
            build = pathlib.Path(folder)
            (build / "tools").mkdir()
            (build / "tools" / "seer").symlink_to(BUILD.resolve() / "tools" / "seer")
            command = [sys.executable, ROOT / "tools" / "demo.py", "--build", build, "--backend", "cpu", "--repeat", "1"]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for layer in (11, 20):
                picture = build / "demo" / f"layer{layer}.png"
                self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
                self.assertIn(str(picture), text)
        rows = re.findall(r"ratio ([\d.]+) +([\d.]+) %.* ([\d.]+) % +([\d.]+) %\n", text)
        self.assertEqual([row[0] for row in rows], ["0.75", "0.5", "0.25", "0.1"] * 2)
        for layer in (rows[:4], rows[4:]):
            mass = [float(row[3]) for row in layer]
            self.assertEqual(mass, sorted(mass, reverse=True))
            self.assertGreater(mass[1], 94)

    # Same library, same gates, same tensors: the command and the C API must give the same bytes.
    def test_ctypes_equals_command(self):
        path = DATA / "layer20.safetensors"
        (q, shape), (k, kv_shape), (v, _) = (read(path)[name] for name in "qkv")
        out = ctypes.create_string_buffer(len(q))
        with tempfile.TemporaryDirectory() as folder:
            seer("gate-init", folder, "--config", DATA / "config.json")
            wanted = json.loads(seer("prefill", path, "--model", folder, "--layer", 20, "--ratio", 0.5, "--backend", "cpu", "--json"))
            with Seer(BUILD / "libseerattn.so", backend="cpu") as library:
                with self.assertRaisesRegex(SeerError, "SEER_ERROR_IO"):
                    library.load(pathlib.Path(folder) / "absent")
                library.load(pathlib.Path(folder))
                views = [host_tensor(ctypes.addressof(x), s, BF16) for x, s in ((q, shape), (k, kv_shape), (v, kv_shape), (out, shape))]
                stats = library.prefill(20, *views, seer_select_spec(method=SELECT_RATIO, ratio=0.5))
                self.assertEqual(stats.blocks_kept, wanted["blocks_kept"])
                self.assertEqual(crc32(out.raw), wanted["checksum"]["crc32"])
                self.assertEqual(library.prefill(20, *views, seer_select_spec(method=SELECT_ALL)).density, 1)
                self.assertNotEqual(crc32(out.raw), wanted["checksum"]["crc32"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
