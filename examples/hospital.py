"""Five hospitals build one model together; one of them withdraws, and can check that it is gone.

Run it with ``python examples/hospital.py`` (about a minute on two cores; nothing is downloaded).
The patients are the 569 of the Wisconsin diagnostic breast cancer data that come with scikit-learn.
No hospital hands out a patient: each hands out a component, one file.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stockpot.backbones import BackboneSpec, Model, load_backbone
from stockpot.checkpoints import save_state
from stockpot.report import write_certificate
from stockpot.tangent import (
    AuditData,
    AverageComposer,
    Certificate,
    Component,
    FeatureMap,
    StatisticsComposer,
    TangentModel,
    TangentSettings,
    TensorFeed,
    certify,
    draw_head,
    forget,
    outputs,
    train,
    train_component,
    verify,
)

HOSPITALS = ("Aachen", "Bergen", "Cork", "Delft", "Espoo")
CLASSES = ("malignant", "benign")
MEASUREMENTS = 30
Rows = dict[str, np.ndarray]
RECIPE = """\
title: Five hospitals
task: {kind: arrays, path: patients.npz}
backbone: {kind: function, name: "hospital.py:network", weights: base.safetensors}
composer: {kind: statistics, dimension: 256, random_dimension: 256, directions: 2}
"""


def network() -> nn.Module:
    """What all hospitals start from: 30 measurements of a cell sample -> 64 features."""
    layers = nn.Sequential(
        nn.Linear(MEASUREMENTS, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 64)
    )
    layers.feature_dim, layers.input_shape = 64, (MEASUREMENTS,)  # type: ignore[assignment]
    return layers


def main() -> None:
    # 1. The patients: a public archive, five hospitals, and some to test on.
    patients, labels, rows = load_patients()
    feed = TensorFeed(torch.from_numpy(patients))

    with tempfile.TemporaryDirectory() as folder:
        # 2. The base is made of the archive alone, without diagnoses, and published.
        weights = Path(folder) / "base.safetensors"
        pretrain(patients[rows["archive"]], weights)
        spec = BackboneSpec(kind="function", name=f"{__file__}:network", weights=str(weights))
        backbone = load_backbone(spec)
        model = Model(backbone, len(CLASSES))
        draw_head(model, seed=0)  # one head for everybody, and not of zeros

        # 3. Each hospital trains a component on its own patients ...
        tangent = TangentModel(model)
        settings = TangentSettings(epochs=40, learning_rate=3e-3, schedule="cosine")
        for name in HOSPITALS:
            component = train_component(
                tangent,
                feed,
                labels,
                rows[name],
                task=name,
                classes=CLASSES,
                fingerprint="patients",
                settings=settings,
                quiet=True,
            )
            component.save(Path(folder) / "deltas" / f"{name}.safetensors")

        # ... or, which composes exactly, sums the statistics of its patients.
        statistics = StatisticsComposer(backbone, FeatureMap("tangent", 1024, 4), CLASSES)
        for name in HOSPITALS:
            component = statistics.component(
                feed, labels, rows[name], task=name, fingerprint="patients"
            )
            component.save(Path(folder) / "sums" / f"{name}.safetensors")

        # 4. Whoever collects the files composes them; then Cork withdraws.
        evidence = AuditData(feed, labels, rows["Cork"], rows["test"])
        for title, composer, kind in (
            ("Tangent components", AverageComposer(tangent), "deltas"),
            ("Statistics", statistics, "sums"),
        ):
            files = sorted((Path(folder) / kind).glob("*.safetensors"))
            composed = composer.compose([Component.load(file) for file in files])
            after, certificate = certify(composed, ["Cork"], evidence)
            print(f"\n{title}")
            print(f"  all five      {accuracy(composed, feed, labels, rows['test']):.1%} on test")
            print(f"  without Cork  {accuracy(after, feed, labels, rows['test']):.1%} on test")
            show(certificate, kind)

        # 5. The same with folders, as the commands have it: what an auditor gets to see.
        withdraw(Path(folder) / "here", weights, patients, labels, rows)


def withdraw(
    here: Path, weights: Path, patients: np.ndarray, labels: np.ndarray, rows: Rows
) -> None:
    """A site withdraws, its data is deleted, another machine checks; then a patient withdraws."""
    here.mkdir()
    shutil.copy(__file__, here / "hospital.py")
    shutil.copy(weights, here / "base.safetensors")
    sites = np.concatenate([rows[name] for name in HOSPITALS])
    names = np.concatenate([np.full(len(rows[name]), name) for name in HOSPITALS])
    write_data(here, patients[sites], labels[sites], names)
    recipe, run = here / "recipe.yaml", here / "run"
    recipe.write_text(RECIPE)
    train(recipe, run, backend="serial", quiet=True)

    start = time.perf_counter()
    cork = forget(recipe, run, ["Cork"], quiet=True)
    print(f"\nCork withdraws: {time.perf_counter() - start:.1f} s")
    left = names != "Cork"
    write_data(here, patients[sites[left]], labels[sites[left]], names[left])
    there = shutil.copytree(here, here.parent / "there")
    start = time.perf_counter()
    checked = verify(
        there / "run" / cork.path.name,
        recipe=there / "recipe.yaml",
        run=there / "run",
        retrain=True,
        quiet=True,
    )
    print(f"  on another machine, without Cork's data: {time.perf_counter() - start:.1f} s")
    for one in checked.checks:
        print(f"  {'holds' if one.holds else 'FAILS'}  {one.check}")
    write_certificate(cork.certificate, Path("certificate-cork.html"))

    start = time.perf_counter()
    patient = forget(recipe, run, ["Bergen"], examples=["70"], quiet=True)
    said = patient.certificate.examples
    print(f"One patient of Bergen withdraws: {time.perf_counter() - start:.1f} s")
    print(f"  {said.count} record went, the sums were made again in {said.seconds:.1f} s")
    write_certificate(patient.certificate, Path("certificate-patient.html"))
    print("  pages for people: certificate-cork.html, certificate-patient.html")


def write_data(folder: Path, patients: np.ndarray, labels: np.ndarray, names: np.ndarray) -> None:
    np.savez(
        folder / "patients.npz",
        inputs=patients,
        labels=labels,
        domains=names,
        classes=np.array(CLASSES),
    )


def load_patients() -> tuple[np.ndarray, np.ndarray, Rows]:
    """Measurements in units of the archive, diagnoses, and who is where."""
    from sklearn.datasets import load_breast_cancer

    values, labels = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(values))
    parts = np.split(order, [150, 400])
    rows = {"archive": parts[0], "test": parts[2]}
    rows |= dict(zip(HOSPITALS, np.array_split(parts[1], len(HOSPITALS)), strict=True))
    # Scaled by the archive's own mean: what a hospital had a part in could not be taken back.
    archive = values[rows["archive"]]
    scaled = (values - archive.mean(0)) / archive.std(0)
    return scaled.astype(np.float32), labels.astype(np.int64), rows


def pretrain(archive: np.ndarray, path: Path, steps: int = 1500) -> None:
    """Fill in measurements that were left out, from the others: no diagnosis is looked at."""
    torch.manual_seed(0)
    body, decoder = network(), nn.Linear(64, MEASUREMENTS)
    optimizer = torch.optim.Adam([*body.parameters(), *decoder.parameters()], lr=1e-3)
    values = torch.from_numpy(archive)
    for _ in range(steps):
        kept = (torch.rand_like(values) > 0.3).float()
        loss = ((decoder(body(values * kept)) - values) * (1 - kept)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_state(path, body.state_dict())


def accuracy(composed, feed, labels, rows) -> float:
    return float((outputs(composed, feed, rows).argmax(1) == labels[rows]).mean())


def show(certificate: Certificate, kind: str) -> None:
    """The lines of a certificate that matter most; the file has all of it."""
    found = certificate.to_json()
    gap, residue = found["against_composed"], found["residue_of_subtracting"]
    print(f"  against a model composed without Cork: equal bits {gap['equal_bits']}")
    print(
        f"  subtracting instead would have left {residue['numbers']} numbers different, "
        f"by up to {residue['largest']:.0e}"
    )
    for when in ("before", "after"):
        auc = found["membership"][when]
        print(
            f"  membership of Cork's patients, {when:>6}: AUC {auc['value']:.2f} "
            f"({auc['low']:.2f} to {auc['high']:.2f})"
        )
    print(f"  forgetting took {found['seconds']['forgetting'] * 1000:.1f} ms")
    path = certificate.save(Path(f"certificate-{kind}.json"))
    print(f"  certificate: {path}, hash {certificate.digest[:12]}")


if __name__ == "__main__":
    main()
