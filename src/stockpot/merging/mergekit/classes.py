"""What transformers says of a config: a model without memory for its weights, and its names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from stockpot.compat import import_transformers
from stockpot.errors import CheckpointError


def empty_model(config: Mapping[str, Any]) -> Any:
    """The model that a config describes, on the meta device.

    Raises ``CheckpointError`` for a config that transformers cannot make a model of.
    """
    import torch

    transformers = import_transformers()

    try:
        kind = getattr(transformers, config["architectures"][0])
        made = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = kind(made)
        model.tie_weights()
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot make a model of the config: {str(error).splitlines()[0]}"
        ) from error
    return model


def vocabulary_tensors(model: Any) -> set[str]:
    """Names of the tensors with a row for each token, biases of the head included."""
    wanted = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for part in ("weight", "bias"):
            tensor = getattr(module, part, None)
            if tensor is not None:
                wanted.add(id(tensor))
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in wanted}


def names_in_class(names: Iterable[str], model: Any) -> dict[str, str]:
    """Name in a file -> name in the class, where a file keeps older prefixes.

    The name with the most parts in common is meant; one without such a name is left as it is.
    """
    by_end: dict[tuple[str, ...], list[str]] = defaultdict(list)
    known = set(model.state_dict())
    for name in known:
        by_end[tuple(name.split(".")[-2:])].append(name)
    found = {}
    for name in names:
        parts = Counter(name.split("."))
        likeness = [
            ((parts & Counter(other.split("."))).total(), other)
            for other in by_end[tuple(name.split(".")[-2:])]
        ]
        best = max(likeness, default=(0, name))
        unique = [other for score, other in likeness if score == best[0]] == [best[1]]
        found[name] = best[1] if name not in known and unique else name
    return found
