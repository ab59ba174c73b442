"""What fusion_bench 0.2.33 does to whole state dicts, as a command, for ``merging.py``.

    python fusion_bench_merge.py recipe.yaml OUT

The functions behind its `simple_average`, `task_arithmetic` and `ties_merging`, on safetensors
read and written by their own library. Run by a Python that has fusion_bench and torch.
"""

from __future__ import annotations

import sys
import typing
from pathlib import Path

import torch
import typing_extensions
import yaml
from safetensors.torch import load_file, save_file

typing.override = typing_extensions.override  # fusion_bench 0.2.33 wants Python 3.12


def main() -> None:
    recipe, out = yaml.safe_load(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    method = recipe["merge_method"]
    models = [load_file(f"{each['model']}/model.safetensors") for each in recipe["models"]]
    own = recipe["models"][0]["parameters"]
    with torch.no_grad():
        if method == "linear":
            from fusion_bench.utils.state_dict_arithmetic import state_dict_avg

            merged = state_dict_avg(models)
        else:
            base = load_file(f"{recipe['base_model']}/model.safetensors")
            merged = (task_arithmetic if method == "task_arithmetic" else ties)(base, models, own)
    out.mkdir(parents=True)
    save_file({name: each.contiguous() for name, each in merged.items()}, out / "model.safetensors")


def task_arithmetic(base, models, own):
    from fusion_bench.utils.state_dict_arithmetic import (
        state_dict_add,
        state_dict_mul,
        state_dict_sub,
    )

    total = None
    for model in models:
        vector = state_dict_sub(model, base)
        total = vector if total is None else state_dict_add(total, vector)
    return state_dict_add(base, state_dict_mul(total, own["weight"]))


def ties(base, models, own):
    from fusion_bench.method.ties_merging.ties_merging_utils import (
        state_dict_to_vector,
        ties_merging,
        vector_to_state_dict,
    )

    flat = state_dict_to_vector(base)
    vectors = torch.vstack([state_dict_to_vector(model) for model in models]) - flat
    merged = ties_merging(vectors, reset_thresh=100 * own["density"], merge_func="mean")
    return vector_to_state_dict(flat + merged, base)


if __name__ == "__main__":
    main()
