"""``stockpot doctor``: what is installed, whether it fits together, and what the machine has."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from stockpot.cli.output import Output
from stockpot.extras import DISTRIBUTIONS, EXTRAS, PURPOSES
from stockpot.system import usable_cores

# A run with checkpoints of a small model and its caches needs about this much.
_ENOUGH_DISK = 5 * 10**9


@dataclass(frozen=True)
class DoctorCheck:
    """One line of the check-up.

    ``state``: "ok"; "missing", an option that is not installed; "warning", what stockpot works
    around but other programs may not; "problem".
    """

    name: str
    state: str
    words: str
    fix: str | None = None


def doctor_command(
    out: Output = Output(),
) -> None:
    """Check versions, extras, whether torch and torchvision fit, GPU and free disk space.

    Exit code 1 when something is broken; a missing extra is no fault.
    """

    findings = examine()
    broken = [finding for finding in findings if finding.state == "problem"]
    lines = [
        f"{finding.state:8}{finding.name:14}{finding.words}"
        + (f"\n{'':22}-> {finding.fix}" if finding.fix else "")
        for finding in findings
    ]
    value = {"healthy": not broken, "findings": [asdict(finding) for finding in findings]}
    out.data(value, "\n".join(lines))
    if broken:
        raise typer.Exit(1)


def examine() -> list[DoctorCheck]:
    """All findings, cheapest first. Imports no heavy package into this process."""
    found = [
        DoctorCheck("stockpot", "ok", f"{_version('stockpot') or 'not installed'}"),
        DoctorCheck(
            "python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}"
        ),
        *(_extra(name, purpose) for name, purpose in PURPOSES.items()),
    ]
    torch, vision = _version("torch"), _version("torchvision")
    if torch and vision:
        found.append(_torchvision(torch, vision))
    found.append(_cores())
    found.append(_gpu(torch is not None))
    found.append(_disk(Path.cwd()))
    return found


def builds_match(torch: str, torchvision: str) -> bool:
    """Whether two versions come from the same kind of build.

    A build names its device behind a plus ("2.13.0+cpu"); a wheel without one is the default build
    of the package index, which on Linux is a CUDA one.
    """
    return _build(torch) == _build(torchvision)


def _build(version: str) -> str:
    return version.partition("+")[2]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(name: str, purpose: str) -> DoctorCheck:
    packages = [DISTRIBUTIONS.get(package, package) for package in EXTRAS[name]]
    versions = {package: _version(package) for package in packages}
    absent = [package for package, version in versions.items() if version is None]
    if absent:
        words = f"for {purpose}: {', '.join(absent)} not installed"
        return DoctorCheck(name, "missing", words, f"pip install 'stockpot[{name}]'")
    return DoctorCheck(name, "ok", ", ".join(f"{p} {v}" for p, v in versions.items()))


def _torchvision(torch: str, vision: str) -> DoctorCheck:
    """torchvision is compiled against one build of torch; beside another it fails on import.

    A warning only: backbones go on without torchvision's compiled operators.
    """
    words = f"torch {torch}, torchvision {vision}"
    works, error = _try("import torch, torchvision")
    if works:
        return DoctorCheck("torchvision", "ok", words)
    if builds_match(torch, vision):
        why = error
    else:
        why = f"builds differ ('{_build(torch) or 'default'}' and '{_build(vision) or 'default'}')"
    return DoctorCheck(
        "torchvision",
        "warning",
        f"{words} do not work together: {why}",
        "pip uninstall torchvision, or install both from the same index",
    )


def _try(code: str) -> tuple[bool, str]:
    """Run a line in a Python of its own, so that a broken package cannot harm this process."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def _cores() -> DoctorCheck:
    return DoctorCheck("cores", "ok", f"{usable_cores()}{_memory()}")


def _memory() -> str:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return ""
    match = re.search(r"MemTotal:\s+(\d+) kB", text)
    return f", {int(match[1]) / 1e6:.0f} GB of memory" if match else ""


def _gpu(has_torch: bool) -> DoctorCheck:
    if has_torch:
        works, words = _try(
            "import torch; n = torch.cuda.device_count(); "
            "print(', '.join(torch.cuda.get_device_name(i) for i in range(n)) "
            "or ('Apple MPS' if torch.backends.mps.is_available() else ''))"
        )
        if works and words:
            return DoctorCheck("gpu", "ok", words)
        if not works:
            return DoctorCheck(
                "gpu", "problem", f"torch does not start: {words}", "reinstall torch"
            )
    if shutil.which("nvidia-smi") and has_torch:
        words = "a GPU is there, but this torch cannot use it"
        return DoctorCheck("gpu", "problem", words, "install a CUDA build of torch")
    return DoctorCheck("gpu", "missing", "none; everything runs on the CPU")


def _disk(folder: Path) -> DoctorCheck:
    free = shutil.disk_usage(folder).free
    words = f"{free / 1e9:.1f} GB free in {folder}"
    if free < _ENOUGH_DISK:
        return DoctorCheck("disk", "problem", words, "make room or work in another folder")
    return DoctorCheck("disk", "ok", words)
