"""Merging needs no torch, and imports little before it starts."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from .models import numpy_states, write_states

BLOCK_TORCH = """
    import sys

    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "transformers", "timm", "accelerate", "peft"):
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    sys.meta_path.insert(0, NoTorch())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def paths(tmp_path):
    base, models = write_states(tmp_path, *numpy_states(2))
    return [str(path) for path in (base, *models)]


def test_merging_files_imports_no_torch(paths, tmp_path):
    code = """
        import sys
        from stockpot.cli.main import app
        base, a, b, out = sys.argv[1:]
        app(["merge", "-m", "stock", "-b", base, a, b, "-o", out], standalone_mode=False)
        heavy = {"torch", "transformers", "timm", "pandas", "scipy", "sklearn"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = run(code, *paths, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_it_works_where_torch_is_not_installed(paths, tmp_path):
    code = (
        BLOCK_TORCH
        + """
    from pathlib import Path
    from stockpot.checkpoints import open_checkpoint
    from stockpot.errors import MissingDependencyError
    from stockpot.merging import available_methods, get_method, merge

    base, a, b, out = sys.argv[1:]
    for name in ("linear", "stock", "ties", "dare", "slerp"):
        needs = get_method(name).base != "none"
        merge([a, b], method=name, base=base if needs else None, output=f"{out}-{name}.safetensors")
    Path(out + ".pt").write_bytes(b"PK")
    for wrong in (lambda: open_checkpoint(out + ".pt"), lambda: merge([a], device="cuda")):
        try:
            wrong()
        except MissingDependencyError as error:
            assert "stockpot[torch]" in str(error)
        else:
            raise AssertionError("expected an error")
    """
    )
    done = run(code, *paths, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("out-*.safetensors"))) == 5


def test_a_small_merge_imports_little(paths, tmp_path):
    """Imports are what a small merge takes its time for; benchmarks/merging.py measures seconds."""
    code = """
        import sys
        from stockpot.cli.main import app
        base, a, b, out = sys.argv[1:]
        app(["merge", "-m", "stock", "-b", base, a, b, "-o", out], standalone_mode=False)
        own = sum(name.split(".")[0] == "stockpot" for name in sys.modules)
        print(own, file=sys.stderr)
    """
    done = run(code, *paths, str(tmp_path / "out.safetensors"))
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) <= 80, "a merge imports more of stockpot than it did"
