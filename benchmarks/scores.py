"""Transferability scores against the code of those who proposed them.

``python benchmarks/scores.py PEERS`` with PEERS a folder that holds clones of
thuml/Transfer-Learning-Library (c4aa59e), thuml/LogME (56551ca), TencentARC/SFDA (3b7edf7),
lixiaotong97/PED (e5af6e7), mgholamikn/ETran (d4551ed), BUserName/NCTI (b18d395),
OpenGVLab/Multitask-Model-Selector (24d1008), google-research/pactran_metrics (a5e4997) and
tanyang1231/OTCE_Transferability_CVPR21 (d844b87); those that are missing are left out. Their
functions are read out of the files, so that nothing of theirs is installed; numba is used where
there is one. Set ``OMP_NUM_THREADS=1``: times are CPU seconds of one thread, best of three for ours
and for what takes less than a second, one run for slower code.

``--values`` compares values on small data, ``--times`` values and times on large; default both.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.covariance
import sklearn.decomposition
import sklearn.discriminant_analysis
import sklearn.mixture
import sklearn.preprocessing
import torch

from stockpot.ranking.scores import Evidence, compute, defined
from stockpot.ranking.scores import logme as our_logme
from stockpot.ranking.scores.etran import nearest_mean
from stockpot.ranking.scores.spectrum import Spectrum
from stockpot.ranking.scores.workspace import Workspace

try:
    from numba import njit
except ImportError:

    def njit(function: Callable[..., Any]) -> Callable[..., Any]:
        return function


def functions_of(*places: Path) -> dict[str, Any]:
    """Functions and classes of files, without running their imports."""
    world: dict[str, Any] = {
        "np": np,
        "scipy": scipy,
        "linalg": scipy.linalg,
        "lstsq": np.linalg.lstsq,
        "LA": np.linalg,
        "inv": np.linalg.inv,
        "sklearn": sklearn,
        "torch": torch,
        "nn": torch.nn,
        "njit": njit,
        "time": time,
        "warnings": warnings,
        "math": __import__("math"),
        "tqdm": lambda rows, **_: rows,
        "PCA": sklearn.decomposition.PCA,
        "LedoitWolf": sklearn.covariance.LedoitWolf,
        "GaussianMixture": sklearn.mixture.GaussianMixture,
        "LinearDiscriminantAnalysis": sklearn.discriminant_analysis.LinearDiscriminantAnalysis,
    }
    for place in places:
        tree = ast.parse(place.read_text(encoding="utf-8"))
        kept = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        exec(compile(ast.Module(kept, []), str(place), "exec"), world)
    return world


Call = Callable[..., Any]


def peers(folder: Path) -> dict[str, Call]:
    """Their functions by name, of those repositories that are there."""
    found: dict[str, Call] = {}

    def take(repository: str, *files: str, **names: str) -> None:
        places = [folder / repository / file for file in files]
        if all(place.exists() for place in places):
            world = functions_of(*places)
            found.update({name: world[theirs] for name, theirs in names.items()})

    tllib = "Transfer-Learning-Library"
    take(tllib, "tllib/ranking/logme.py", tllib_logme="log_maximum_evidence")
    take(tllib, "tllib/ranking/hscore.py", hscore="h_score", reg_hscore="regularized_h_score")
    take(tllib, "tllib/ranking/leep.py", leep="log_expected_empirical_prediction")
    take(tllib, "tllib/ranking/nce.py", nce="negative_conditional_entropy")
    take(tllib, "tllib/ranking/transrate.py", transrate="transrate")
    take("LogME", "LogME.py", logme="LogME")
    take("SFDA", "utils.py", "metrics.py", sfda="SFDA_Score")
    take("SFDA", "metrics.py", parc="PARC")
    take("ETran", "utils.py", "metrics.py", lda="LDA_Score", energy="Energy_Score")
    take("NCTI", "utils.py", "metrics.py", ncti="NCTI_Score")
    take(
        "pactran_metrics",
        "compute_metrics.py",
        pactran="calculate_pac_gauss",
        pactran_dirichlet="calculate_pac_dir",
        pactran_gamma="calculate_pac_gamma",
    )
    return found


def quietly(call: Call, *arguments: Any, **named: Any) -> Any:
    """What a call returns, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **named)


def made(rows: int, width: int, classes: int, seed: int = 0) -> Evidence:
    """Rectified features of classes that overlap, float32, and logits of a source head."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(rows) % classes)
    centres = rng.normal(size=(classes, width)) * (2.0 / np.sqrt(width))
    mixing = np.exp(0.7 * rng.normal(size=width))
    features = np.maximum((rng.normal(size=(rows, width)) + centres[codes]) * mixing + 0.3, 0.0)
    logits = rng.normal(size=(rows, 1000)) + 2.0 * rng.normal(size=(classes, 1000))[codes]
    return Evidence(features.astype(np.float32), codes, logits=logits.astype(np.float32))


def probabilities(evidence: Evidence) -> np.ndarray:
    assert evidence.logits is not None
    return np.asarray(scipy.special.softmax(evidence.logits.astype(np.float64), axis=1))


# ---------------------------------------------------------------------------------------- values
def compare_values(theirs: dict[str, Call]) -> None:
    """One line a quantity: ours, theirs, relative difference."""
    print("| score | ours | theirs | difference |")
    print("|---|---|---|---|")
    evidence = made(1200, 96, 10)
    assert evidence.features is not None
    assert evidence.logits is not None
    evidence = replace(
        evidence, features=evidence.features.astype(np.float64), logits=evidence.logits[:, :40]
    )
    x, y, p = evidence.features, evidence.targets, probabilities(evidence)
    assert x is not None

    def line(name: str, ours: float, call: Callable[[], float], need: str) -> None:
        if need in theirs:
            number = float(quietly(call))
            gap = abs(ours - number) / max(1.0, abs(number))
            print(f"| {name} | {ours:.8f} | {number:.8f} | {gap:.1e} |")

    names = [name for name in defined(evidence) if name not in ("nleep", "linear_probe")]
    values = compute(names, evidence)

    def value(name: str) -> float:
        return values[name].value

    line("LogME", value("logme"), lambda: theirs["logme"]().fit(x, y), "logme")
    few = replace(evidence, features=x[:60], targets=y[:60], logits=None)
    short = compute(["logme"], few)["logme"]
    line(
        "LogME, 60 rows (their width term)",
        short.details["authors"],
        lambda: theirs["logme"]().fit(x[:60], y[:60]),
        "logme",
    )
    line(
        "LogME, tllib's stop rule",
        tllib_logme(x, y),
        lambda: theirs["tllib_logme"](x, y),
        "tllib_logme",
    )
    line("H-score", value("hscore"), lambda: theirs["hscore"](x, y), "hscore")
    line("reg. H-score", value("reg_hscore"), lambda: theirs["reg_hscore"](x, y), "reg_hscore")
    line("TransRate", value("transrate"), lambda: theirs["transrate"](x, y), "transrate")
    line("LEEP", value("leep"), lambda: theirs["leep"](p, y), "leep")
    line("NCE", value("nce"), lambda: theirs["nce"](p.argmax(axis=1), y), "nce")
    line("SFDA", value("sfda"), lambda: theirs["sfda"](x.copy(), y), "sfda")
    line(
        "ETran, nearest mean",
        nearest_mean(Workspace(evidence)),
        lambda: theirs["lda"](x, y),
        "lda",
    )
    line(
        "ETran, energy",
        values["etran"].details["energy"],
        lambda: theirs["energy"](x, 0.5, "bot"),
        "energy",
    )
    for place, part in enumerate(("span", "confidence", "spread")):
        line(
            f"NCTI, {part}",
            values["ncti"].details[part],
            lambda place=place: exact_pca(theirs["ncti"])(x, y)[place],
            "ncti",
        )
    # Theirs with equal label distances kept equal: rounding breaks half of the ties otherwise.
    if "parc" in theirs:
        theirs["parc"].get_parc_correlation.__globals__["np"] = Rounded()
    scores = sklearn.decomposition.PCA(32, svd_solver="full").fit_transform(x)
    line("PARC, exact PCA", value("parc"), lambda: theirs["parc"](None)(scores, y), "parc")
    line(
        "PACTran-Gaussian",
        value("pactran"),
        lambda: -theirs["pactran"](x.copy(), y, 1.0)[0][0][1],
        "pactran",
    )
    for name in ("pactran_dirichlet", "pactran_gamma"):
        line(name, value(name), lambda name=name: -theirs[name](p, y, 1.0)[0][1], name)


class Rounded:
    """numpy whose correlations have 12 digits."""

    def __getattr__(self, name: str) -> Any:
        if name == "corrcoef":
            return lambda rows: np.corrcoef(rows).round(12)
        return getattr(np, name)


def exact_pca(function: Call) -> Call:
    """The function with an exact PCA in place of scikit-learn's randomised one."""
    function.__globals__["PCA"] = lambda n_components: sklearn.decomposition.PCA(
        n_components, svd_solver="full"
    )
    return function


def tllib_logme(x: np.ndarray, y: np.ndarray) -> float:
    columns = np.eye(y.max() + 1)[y]
    spectrum = Spectrum(np.asfortranarray(x.T @ x))
    problem = our_logme.Normal(spectrum, x.T @ columns, columns.sum(axis=0), np.zeros(x.shape[1]))
    fit = our_logme.fixed_point(problem, columns.shape[1], len(x), tolerance=0.01, epsilon=0.0)
    return float(fit.evidence.mean())


# ----------------------------------------------------------------------------------------- times
def seconds(call: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """Least CPU seconds of a call, and what it returned; once if it takes over a second."""
    best = np.inf
    for _ in range(rounds):
        start = time.process_time()
        result = quietly(call)
        best = min(best, time.process_time() - start)
        if best > 3.0:
            break
    return best, result


def compare_times(theirs: dict[str, Call], rows: int, width: int, classes: int) -> None:
    """One line a score: values and CPU seconds of both."""
    evidence = made(rows, width, classes)
    x, y = evidence.features, evidence.targets
    assert x is not None
    wide = x.astype(np.float64)
    print(f"\n{rows} rows, {width} features, {classes} classes, float32\n")
    print("| score | ours | theirs | difference | our CPU s | their CPU s | ratio |")
    print("|---|---|---|---|---|---|---|")

    def line(name: str, title: str, call: Callable[[], float], need: str) -> None:
        if need not in theirs:
            return
        own, value = seconds(lambda: compute([name], evidence)[name])
        taken, number = seconds(call, 1)
        gap = abs(value.value - number) / max(1.0, abs(number))
        print(
            f"| {title} | {value.value:.6f} | {number:.6f} | {gap:.1e} "
            f"| {own:.2f} | {taken:.2f} | {taken / own:.1f} |",
            flush=True,
        )

    line("logme", "LogME (thuml)", lambda: theirs["logme"]().fit(x, y), "logme")
    line("reg_hscore", "reg. H-score (tllib)", lambda: theirs["reg_hscore"](x, y), "reg_hscore")
    if classes <= 200:
        line("hscore", "H-score (tllib)", lambda: theirs["hscore"](wide, y), "hscore")
        line("transrate", "TransRate (tllib)", lambda: theirs["transrate"](wide, y), "transrate")
        line("sfda", "SFDA (authors)", lambda: theirs["sfda"](wide.copy(), y), "sfda")
    line("leep", "LEEP (tllib)", lambda: theirs["leep"](probabilities(evidence), y), "leep")
    line("nce", "NCE (tllib)", lambda: theirs["nce"](evidence.logits.argmax(axis=1), y), "nce")
    cheap = defined(evidence, cheap=True)
    together, _ = seconds(lambda: compute(cheap, evidence))
    gram, matrix = seconds(lambda: wide.T @ wide)
    eigen, _ = seconds(lambda: np.linalg.eigh(matrix))
    single, _ = seconds(lambda: x.T @ x)
    print(f"\nall {len(cheap)} cheap scores together ({', '.join(cheap)}): {together:.2f} s")
    print(f"one Gram matrix {gram:.2f} s, in float32 {single:.2f}; one eigh {eigen:.2f} s")
    print(
        f"ratio {together / (gram + eigen):.2f} (float32 Gram: {together / (single + eigen):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("--values", action="store_true")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--shape", nargs=3, type=int, action="append")
    arguments = parser.parse_args()
    theirs = peers(arguments.peers)
    both = not (arguments.values or arguments.times)
    if arguments.values or both:
        compare_values(theirs)
    if arguments.times or both:
        warm = made(200, 20, 4)
        compute(defined(warm, cheap=True), warm)
        if "logme" in theirs:
            quietly(theirs["logme"]().fit, warm.features, warm.targets)
        for shape in arguments.shape or ([10_000, 2048, 100], [20_000, 1024, 1000]):
            compare_times(theirs, *shape)


if __name__ == "__main__":
    main()
