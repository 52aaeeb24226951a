"""A wheel, built without a network, installed into a new environment and used from an empty folder: as a new user does.

SEERATTN_LIB names the library that it is to carry."""

import os
import subprocess
import sys
import tempfile
import unittest
import zipfile
import zlib
from pathlib import Path
from unittest import mock

from support import GOLDEN, Case, WithContext

BINDING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BINDING))

import build_wheel  # noqa: E402


def run(*command, **options):
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, timeout=300, **options)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def clean(**settings):
    """This environment without what would lead to the source tree or the built library."""
    kept = {k: v for k, v in os.environ.items() if k not in ("SEERATTN_LIB", "PYTHONPATH", "LD_LIBRARY_PATH")}
    return {**kept, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **settings}


class Wheel(WithContext):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.TemporaryDirectory()
        cls.work = Path(cls.folder.name)
        cls.python = cls.work / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", cls.work / "venv")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()
        super().tearDownClass()

    def build(self, library):
        """By the backend itself, as pip calls it."""
        target = Path(tempfile.mkdtemp(dir=self.work))
        settings = {} if library is None else {"SEERATTN_LIB": str(library)}
        with mock.patch.dict(os.environ, settings):
            if library is None:
                os.environ.pop("SEERATTN_LIB", None)
            return target / build_wheel.build_wheel(target)

    def test_with_the_library(self):
        library = os.environ["SEERATTN_LIB"]
        wheel = self.build(library)
        self.assertRegex(wheel.name, r"^seerattn-[\d.]+-py3-none-manylinux_2_\d+_\w+\.whl$")
        self.assertEqual(wheel.read_bytes(), self.build(library).read_bytes())
        with zipfile.ZipFile(wheel) as archive:
            self.assertIn("seerattn/py.typed", archive.namelist())
            self.assertIn("seerattn/lib/libseerattn.so.0", archive.namelist())
            self.assertFalse([name for name in archive.namelist() if "pycache" in name])
        run(self.python, "-m", "pip", "install", "-q", "--no-deps", wheel, env=clean())
        empty = self.work / "empty"
        empty.mkdir()
        loaded = run(
            self.python,
            "-c",
            "import seerattn; print(seerattn.library_path()); print(open('/proc/self/maps').read())",
            env=clean(),
            cwd=empty,
        ).splitlines()
        where = Path(loaded[0])
        self.assertTrue(where.samefile(next((self.work / "venv").rglob("seerattn/lib/libseerattn.so.0"))))
        mapped = {Path(line.split()[-1]) for line in loaded[1:] if "/" in line}
        for name in {path.name for path in where.parent.iterdir()}:  # what the wheel carries is what runs
            self.assertEqual({path.parent for path in mapped if path.name == name}, {where.parent})
        case = Case("llama-tail")
        printed = run(
            self.python,
            BINDING / "examples" / "prefill.py",
            case.folder,
            case.folder / "case.safetensors",
            case.layer,
            env=clean(SEER_BACKEND="cpu"),
            cwd=empty,
        )
        here = self.ctx.prefill(self.ctx.load(case.folder), case.layer, case.q, case.k, case.v)
        self.assertRegex(printed, r"^density  69\.1 %\ntime     \d+\.\d\d ms\nchecksum [0-9a-f]{8}\n$")
        self.assertTrue(printed.endswith(f"checksum {zlib.crc32(here.out.tobytes()):08x}\n"))

    def test_without_the_library(self):
        """From a source archive, by pip, without a network."""
        sdist = self.work / build_wheel.build_sdist(self.work)
        target = self.work / "pure"
        run(self.python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", target, sdist, env=clean())
        (wheel,) = target.iterdir()
        self.assertEqual(wheel.name, self.build(None).name)
        self.assertTrue(wheel.name.endswith("-py3-none-any.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.work / "site")
        use = ("import seerattn", f"print(seerattn.Context('cpu').load({str(GOLDEN / 'one-block')!r}).config.head_dim)")
        settings = clean(SEERATTN_LIB=os.environ["SEERATTN_LIB"], PYTHONPATH=str(self.work / "site"))
        self.assertEqual(run(self.python, "-c", "; ".join(use), env=settings, cwd=self.work), "128\n")

    def test_a_wrong_library_is_refused(self):
        with self.assertRaisesRegex(FileNotFoundError, "SEERATTN_LIB: there is no"):
            self.build("/nowhere")
        with self.assertRaisesRegex(RuntimeError, "not for x86_64"), mock.patch.object(build_wheel, "_needed", lambda path: {}):
            self.build(__file__)

    def test_editable(self):
        with zipfile.ZipFile(self.work / build_wheel.build_editable(self.work)) as archive:
            self.assertEqual(archive.read("seerattn.pth").decode(), f"{BINDING / 'src'}\n")


if __name__ == "__main__":
    unittest.main()
