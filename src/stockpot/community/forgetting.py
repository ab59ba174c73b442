"""The certificate of a revert: what is left of a tangent component in a version without it.

The kind of ``stockpot tangent forget``, of which ``stockpot tangent verify`` checks hash and claim.
A registry has no rows of the contributor's data, so nothing is said of membership; what is said can
be found again by anybody who has the registry.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.checkpoints import MemoryCheckpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.community.components import SUM, add_up, load_component
from stockpot.community.contribution import Contribution
from stockpot.provenance import versions
from stockpot.registry import Registry, checkout
from stockpot.tangent.forgetting.schema import Certificate, Gap

if TYPE_CHECKING:
    from torch import Tensor


def certify_revert(
    registry: Registry,
    before: Sequence[Contribution],
    after: Sequence[Contribution],
    parameters: Mapping[str, Any],
    models: tuple[str, str],
) -> Certificate:
    """Compare the sum in the version that was made with one of the kept components alone.

    ``before`` and ``after``: components in the line, of which the version is summed by
    ``parameters``; ``models``: ids of the versions before and after. In the certificate
    ``against_composed`` holds the largest difference of the weights and whether all bits are equal,
    ``residue_of_subtracting`` what subtracting would have left.
    """
    import torch

    from stockpot.tangent.forgetting.certificate import describe, residue

    everything = {each.id: load_component(registry, each) for each in before}
    kept = {each.id for each in after}
    rest = [everything[ident] for ident in sorted(kept, reverse=True)]
    removed = [component for ident, component in everything.items() if ident not in kept]
    old, new = (_sum_of(registry, model) for model in models)
    never = add_up(rest, parameters)[1] if rest else {}
    gaps = [
        float((new[name].double() - never[name].double()).abs().max())
        for name in sorted(set(new) & set(never))
        if new[name].numel()
    ]
    equal = sorted(new) == sorted(never) and all(torch.equal(new[n], never[n]) for n in new)
    return Certificate(
        version=Certificate.current,
        kind="forgetting-certificate",
        composer="average" if removed[0].kind == "delta" else removed[0].kind,
        base_digest=removed[0].base_digest,
        head_digest=removed[0].head_digest,
        removed=tuple(map(describe, removed)),
        kept=tuple(describe(each) for each in sorted(rest, key=lambda each: each.digest)),
        weights=parameters.get("weights", "uniform"),
        before=MemoryCheckpoint(old).digest(),
        after=MemoryCheckpoint(new).digest(),
        against_composed=Gap(weights=max(gaps, default=0.0), outputs=None, equal_bits=equal),
        against_retrained=None,
        residue_of_subtracting=residue(list(everything.values()), removed),
        membership=None,
        accuracy=None,
        seconds=None,
        versions=versions("torch"),
        models={"before": models[0], "after": models[1]},
    )


def _sum_of(registry: Registry, model: str) -> Mapping[str, Tensor]:
    """The sum of components in a version; empty for one without."""
    manifest = registry.manifest(model)
    if all(file.path != SUM for file in manifest.files):
        return {}
    with tempfile.TemporaryDirectory(prefix="stockpot-certificate-") as scratch:
        checkout(registry, manifest, Path(scratch) / "model")
        return load_state(Path(scratch) / "model" / SUM)
