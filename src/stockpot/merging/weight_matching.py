"""Weight matching: a model's hidden units put in the order of another model's, before they are
averaged.

A network computes the same after its hidden units are reordered, with the weights into and out of
them; an average of two orders is noise. The order that fits best is an assignment problem for each
set of units, solved in turn until nothing changes (Ainsworth et al. 2022, Git Re-Basin,
arXiv 2209.04836, section 3.2).

Which tensors share hidden units is read from their names: the feed-forward blocks of transformers,
and plain chains of linear layers. Reordering these changes nothing else in the model. Other units
(attention heads, channels of convolutions, the residual stream) stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import is_float
from stockpot.checkpoints.reordered import Order, ReorderedCheckpoint
from stockpot.errors import CheckpointError
from stockpot.extras import require

Infos = Mapping[str, TensorInfo]

# Layers into the hidden units, and the one out of them, side by side in one module.
_BLOCKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("wi_0", "wi_1"), "wo"),
    (("wi",), "wo"),
    (("w1", "w3"), "w2"),
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("lin1",), "lin2"),
    (("linear1",), "linear2"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
    (("intermediate.dense",), "output.dense"),
)
_NUMBERED = re.compile(r"(.*?)(\d+)\.(\w+)")
_ROUNDS = 100


@dataclass(frozen=True)
class Units:
    """Hidden units that may be reordered together: their axis in every tensor that has one."""

    name: str
    size: int
    axes: tuple[tuple[str, int], ...]


def aligned_to(reference: Checkpoint, model: Checkpoint) -> ReorderedCheckpoint:
    """``model`` with its hidden units in the order that is nearest to ``reference``.

    Raises ``CheckpointError`` where no hidden units are recognised by their names, or where the
    models differ in the shape of these layers.
    """
    units = find_units(model.tensors)
    if not units:
        raise CheckpointError(
            f"{model.label}: no hidden units are recognised by the names of its tensors "
            f"('{next(iter(model.names), '')}', ...)",
            hint="feed-forward blocks of transformers and plain chains of linear layers are",
        )
    for name in (name for one in units for name, _ in one.axes):
        if name not in reference or reference.info(name).shape != model.info(name).shape:
            raise CheckpointError(
                f"{reference.label} has no tensor '{name}' of shape {model.info(name).shape}",
                hint="hidden units can be matched between models of one shape only",
            )
    orders = match_units(reference, model, units)
    moved = sum(int(np.sum(order != np.arange(len(order)))) for order in orders.values())
    by_tensor: dict[str, dict[int, Order]] = {}
    for one in units:
        if np.any(orders[one.name] != np.arange(one.size)):
            for name, axis in one.axes:
                by_tensor.setdefault(name, {})[axis] = orders[one.name]
    total = sum(one.size for one in units)
    note = (
        f"{model.label}: {moved} of {total} hidden units in {len(units)} blocks were moved, to the "
        f"order of {reference.label}"
    )
    return ReorderedCheckpoint(model, by_tensor, note=note)


def match_units(
    reference: Checkpoint, model: Checkpoint, units: Sequence[Units], *, seed: int = 0
) -> dict[str, Order]:
    """For each set of units the order of the model's that maximises the inner product with the
    reference's weights. ``seed``: in which sequence sets that share a tensor take turns.
    """
    orders: dict[str, Order] = {one.name: np.arange(one.size) for one in units}
    owners = {key: one.name for one in units for key in one.axes}
    shared = _that_share_a_tensor(units)
    for one in (one for one in units if one.name not in shared):
        orders[one.name] = _matched(one, reference, model, orders, owners)
    together = [one for one in units if one.name in shared]
    draw = np.random.default_rng(seed)
    for _ in range(_ROUNDS if together else 0):
        before = {one.name: orders[one.name] for one in together}
        for position in draw.permutation(len(together)):
            one = together[position]
            orders[one.name] = _matched(one, reference, model, orders, owners)
        if all(np.array_equal(orders[name], order) for name, order in before.items()):
            break
    return orders


def _that_share_a_tensor(units: Sequence[Units]) -> set[str]:
    count: dict[str, int] = {}
    for one in units:
        for name in {name for name, _ in one.axes}:
            count[name] = count.get(name, 0) + 1
    return {one.name for one in units if any(count[name] > 1 for name, _ in one.axes)}


def _matched(
    one: Units,
    reference: Checkpoint,
    model: Checkpoint,
    orders: Mapping[str, Order],
    owners: Mapping[tuple[str, int], str],
) -> Order:
    require("scipy", "matching hidden units")
    from scipy.optimize import linear_sum_assignment

    gain: NDArray[np.floating] = np.zeros((one.size, one.size))
    for name, axis in one.axes:
        ours, theirs = reference.read(name), model.read(name)
        if theirs.ndim > 1 and (name, 1 - axis) in owners:
            theirs = np.take(theirs, orders[owners[name, 1 - axis]], axis=1 - axis)
        gain += _as_rows(ours, axis) @ _as_rows(theirs, axis).T
    _, order = linear_sum_assignment(gain, maximize=True)
    current = orders[one.name]
    rows = np.arange(one.size)
    # Units that are alike have many best orders: nothing is moved without gain.
    better = gain[rows, order].sum() > gain[rows, current].sum() * (1 + 1e-9)
    return np.asarray(order) if better else current


def _as_rows(values: NDArray[np.floating], axis: int) -> NDArray[np.floating]:
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1).astype(np.float64)


# --------------------------------------------------------------------------- structure from names
def find_units(tensors: Infos) -> list[Units]:
    """Hidden units of feed-forward blocks and of plain chains of linear layers."""
    return [*_feed_forward(tensors)] or [*_chain(tensors)]


def _feed_forward(tensors: Infos) -> Iterator[Units]:
    taken: set[str] = set()
    for inputs, output in _BLOCKS:
        tail = f"{inputs[0]}.weight"
        for name in tensors:
            if not name.endswith(tail) or name in taken or not _is_start(name, tail):
                continue
            stem = name.removesuffix(tail)
            weights = [f"{stem}{each}.weight" for each in (*inputs, output)]
            if all(_is_matrix(tensors, weight) for weight in weights):
                axes = _axes(tensors, stem, inputs, output)
                if axes is not None and not _in_the_way(tensors, stem, axes, output):
                    taken.update(weights)
                    first, axis = axes[0]
                    yield Units(stem.rstrip("."), tensors[first].shape[axis], axes)


def _is_start(name: str, tail: str) -> bool:
    """Whether the part of the name before ``tail`` ends with a module."""
    return len(name) == len(tail) or name[-len(tail) - 1] == "."


def _is_matrix(tensors: Infos, name: str) -> bool:
    return name in tensors and len(tensors[name].shape) == 2 and is_float(tensors[name].dtype)


def _axes(
    tensors: Infos, stem: str, inputs: Sequence[str], output: str
) -> tuple[tuple[str, int], ...] | None:
    """The axes of a block's hidden units; None where shapes leave it open which they are.

    Linear layers store (out, in), Conv1D of GPT-2 (in, out): the length of the bias tells.
    """
    into = [f"{stem}{each}" for each in inputs]
    rows, columns = tensors[f"{into[0]}.weight"].shape
    bias = tensors.get(f"{into[0]}.bias")
    if bias is not None and rows == columns and inputs == ("c_fc",):
        return None
    axis = 0 if bias is None or bias.shape == (rows,) else 1
    size = (rows, columns)[axis]
    out = tensors[f"{stem}{output}.weight"].shape
    if out[1 - axis] != size or any(tensors[f"{each}.weight"].shape[axis] != size for each in into):
        return None
    axes = [(f"{each}.weight", axis) for each in into]
    axes += [(f"{each}.bias", 0) for each in into if f"{each}.bias" in tensors]
    return (*axes, (f"{stem}{output}.weight", 1 - axis))


def _in_the_way(
    tensors: Infos, stem: str, axes: Sequence[tuple[str, int]], output: str
) -> list[str]:
    """Other tensors of a feed-forward module that have an axis as long as its hidden one: a norm
    between the layers, quantised scales. Where a layer holds more than such a module, none.
    """
    module = stem.rstrip(".").rpartition(".")[2]
    if not re.fullmatch(r"mlp|ffn|feed_forward|ff|DenseReluDense|\d*", module) or module.isdigit():
        return []
    own = {name for name, _ in axes} | {f"{stem}{output}.bias"}
    first, axis = axes[0]
    size = tensors[first].shape[axis]
    return [
        name
        for name, info in tensors.items()
        if module and name.startswith(stem) and name not in own and size in info.shape
    ]


def _chain(tensors: Infos) -> Iterator[Units]:
    """Hidden units between numbered linear layers, where these and vectors are the whole model."""
    places: dict[int, dict[str, str]] = {}
    prefixes = set()
    for name, info in tensors.items():
        match = _NUMBERED.fullmatch(name)
        if match is None or len(info.shape) > 2:
            return
        prefixes.add(match[1])
        places.setdefault(int(match[2]), {})[match[3]] = name
    linear = [n for n, own in sorted(places.items()) if _is_matrix(tensors, own.get("weight", ""))]
    if len(prefixes) != 1:
        return
    for here, after in pairwise(linear):
        size = tensors[places[here]["weight"]].shape[0]
        if tensors[places[after]["weight"]].shape[1] != size:
            return
        axes = [(places[here]["weight"], 0)]
        for number in range(here, after):
            axes += [
                (name, 0)
                for name in places.get(number, {}).values()
                if tensors[name].shape == (size,)
            ]
        axes.append((places[after]["weight"], 1))
        yield Units(f"{next(iter(prefixes))}{here}", size, tuple(axes))
