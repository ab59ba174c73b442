"""Recipes for ``mergekit_parity.py``: one for every key, method and parameter of mergekit, in every
form that a setting can have. Names of models are folders of the stand-ins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Recipe = Any
"""A document, or a list of documents."""

# name -> (needs a base, how many other models, parameters that mergekit wants a value for)
METHODS: dict[str, tuple[bool, int, dict[str, Any]]] = {
    "linear": (False, 3, {"weight": 0.4}),
    "slerp": (True, 1, {"t": 0.35}),
    "nuslerp": (True, 2, {"weight": 0.4}),
    "multislerp": (True, 3, {"weight": 0.4}),
    "karcher": (False, 3, {}),
    "passthrough": (False, 1, {}),
    "nearswap": (True, 1, {"t": 0.02}),
    "model_stock": (True, 2, {}),
    "arcee_fusion": (True, 1, {}),
    "ram": (True, 3, {}),
    "ramplus_tl": (True, 3, {}),
    "sce": (True, 3, {}),
    **{
        name: (True, 3, {"weight": 0.6})
        for name in (
            *("task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs"),
            *("breadcrumbs_ties", "della", "della_linear"),
        )
    },
}

# parameter -> values that are not its default
VALUES: dict[str, list[Any]] = {
    "weight": [1.0, -0.5, "3e-1"],
    "density": [0.5, 0.0, 0.013, 1.5],
    "gamma": [0.1, 0.0],
    "epsilon": [0.1, 0.02],
    "lambda": [0.7, -1.0],
    "normalize": [True, False],
    "rescale": [True, False],
    "int8_mask": [True],
    "t": [0.0, 1.0, 0.01, 1.3],
    "scale": [0.5, 0.0],
    "nuslerp_row_wise": [True],
    "nuslerp_flatten": [False],
    "normalize_weights": [False],
    "eps": [1e-3],
    "max_iter": [1, 50],
    "tol": [1e-9, 0.3],
    "filter_wise": [True],
    "select_topk": [0.5, 0.0, 0.05],
    "r": [0.5],
    "alpha": [1.0, 0.0],
}
OWN = {"weight", "density", "gamma", "scale"}
"""Parameters that each model has (``epsilon`` of della as well)."""
SPARSE = {"dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "ties", "della"}


def generated(models: Path, parameters: dict[str, list[str]]) -> Iterator[tuple[str, Recipe]]:
    """(name, recipe); ``parameters``: mergekit's method -> its parameters."""
    llama = {path.name: str(path) for path in (models / "llama").iterdir()}
    for method, names in parameters.items():
        yield f"{method}-default", document(llama, method)
        for name in names:
            for number, value in enumerate(VALUES[name]):
                if method.startswith("della") and name == "density" and value == 0.013:
                    continue
                yield f"{method}-{name}-{number}", document(llama, method, {name: value})
            for form, recipe in forms(llama, method, name):
                yield f"{method}-{name}-{form}", recipe
        yield from by_family(models, method)
    yield from keys(llama, models)


def document(
    models: dict[str, str], method: str, values: dict[str, Any] | None = None, **rest: Any
) -> dict[str, Any]:
    """A recipe by ``models:``, every parameter in the table of the whole file."""
    based, count, needed = METHODS[method]
    settings = {**needed, **(values or {})}
    if method.startswith("della") and "density" not in settings:
        settings["density"] = 0.6
    if method.startswith("della") and settings["density"] not in (0.5, 0.6):
        settings.setdefault("epsilon", 0.1)
    if "gamma" in settings or "rescale" in settings:
        settings.setdefault("density", 0.6)
    value: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": models[name]} for name in "abc"[:count]],
        "parameters": settings,
    }
    if based:
        value["base_model"] = models["base"]
    return {**value, **rest}


def forms(models: dict[str, str], method: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A parameter as gradient, under conditions, and in each table that can hold it."""
    low, high = ends(name)
    gradient, condition = [low, high, low], {"filter": "mlp", "value": high}
    settings = {
        "gradient": gradient,
        "condition": condition,
        "conditions": [
            {"filter": "self_attn", "value": gradient},
            {"filter": "layers.1", "value": high},
            {"value": low},
        ],
        "star": [{"filter": "*", "value": high}, {"value": low}],
    }
    for form, value in settings.items():
        made = document(models, method, {name: value})
        if form == "condition":
            made["parameters"][name] = [condition, {"value": low}]
        yield form, made
    yield "slices", in_slices(models, method, name, low, high)
    own = name in OWN or (name == "epsilon" and method.startswith("della"))
    if own:
        made = document(models, method)
        for number, model in enumerate(made["models"]):
            model["parameters"] = {name: [low, high, gradient][number % 3]}
        yield "of-each", made


def ends(name: str) -> tuple[Any, Any]:
    """Two values of a parameter."""
    flags = ("normalize", "rescale", "int8_mask", "filter_wise", "normalize_weights")
    if name in flags or name.startswith("nuslerp"):
        return False, True
    return {
        "t": (0.2, 0.8),
        "max_iter": (2, 8),
        "tol": (1e-6, 1e-2),
        "eps": (1e-8, 1e-2),
        "gamma": (0.02, 0.2),
        "epsilon": (0.05, 0.1),
        "density": (0.5, 0.7),
        "r": (0.1, 0.9),
    }.get(name, (0.3, 0.9))


def in_slices(
    models: dict[str, str], method: str, name: str, low: Any, high: Any
) -> dict[str, Any]:
    """The parameter in each slice, and by gradient in the last."""
    whole = document(models, method, {name: low})
    sources = [item["model"] for item in whole.pop("models")]
    if "base_model" in whole:
        sources = [whole["base_model"], *sources]
    pieces = []
    for number, value in enumerate((high, [low, high])):
        bounds = [number, number + 1] if number == 0 else [1, 3]
        pieces.append(
            {
                "sources": [{"model": model, "layer_range": bounds} for model in sources],
                "parameters": {name: value},
            }
        )
    if name in OWN:
        pieces[0]["sources"][-1]["parameters"] = {name: low}
    return {**whole, "slices": pieces}


def by_family(models: Path, method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method on other architectures, and in 16 bits."""
    for family in ("mistral", "gpt2", "bert", "qwen2", "granite", "t5", "llava"):
        names = {path.name: str(path) for path in (models / family).iterdir()}
        yield f"{method}-{family}", document(names, method)
    llama = {path.name: str(path) for path in (models / "llama").iterdir()}
    yield f"{method}-bfloat16", document(llama, method, sparse(method), dtype="bfloat16")
    yield f"{method}-float16", document(llama, method, sparse(method), dtype="float16")
    rounded = document(llama, method, sparse(method), dtype="float32", out_dtype="bfloat16")
    yield f"{method}-out_dtype", rounded
    close = {**llama, "a": llama["near"], "b": llama["nearer"]}
    yield f"{method}-close", document(close, method)
    few = {**llama, "a": llama["few"], "b": llama["fewer"]}
    yield f"{method}-few", document(few, method)


def sparse(method: str) -> dict[str, Any]:
    return {"density": 0.6} if method in SPARSE else {}


def linear(*models: str, **rest: Any) -> dict[str, Any]:
    items = [
        {"model": m, "parameters": {"weight": w}} for m, w in zip(models, (1, 2, 3), strict=False)
    ]
    return {"merge_method": "linear", "models": items, **rest}


def keys(llama: dict[str, str], models: Path) -> Iterator[tuple[str, Recipe]]:
    """Every key of a file, slice, source, module, tokenizer and token."""
    base, a, b = (llama[name] for name in ("base", "a", "b"))
    yield "key-dtype", linear(a, b, dtype="float64")
    yield "key-dtype-torch", linear(a, b, dtype="torch.bfloat16")
    yield "key-mixed-types", linear(a, llama["half"])
    yield "key-half", linear(llama["half"], llama["half_b"])
    for method in ("ties", "breadcrumbs", "model_stock", "slerp", "sce", "task_arithmetic"):
        halves = {"base": llama["half_base"], "a": llama["half"], "b": llama["half_b"]}
        halves["c"] = llama["half_b"]
        value = document(halves, method, sparse(method))
        value["models"] = value["models"][:2]
        yield f"key-half-{method}", value
    yield "key-linear-base", {**linear(a, b), "base_model": base, "parameters": {"weight": 0.5}}
    yield (
        "key-base-among-models",
        {
            **document(llama, "ties"),
            "models": [{"model": m} for m in (a, base, b)],
        },
    )
    yield (
        "key-base-second",
        {
            **document(llama, "slerp"),
            "models": [{"model": a}, {"model": base}],
        },
    )
    yield (
        "key-base-of-slice",
        {
            "merge_method": "slerp",
            "parameters": {"t": 0.3},
            "slices": [
                {"base_model": m, "sources": [{"model": x, "layer_range": r} for x in (a, b)]}
                for m, r in ((a, [0, 2]), (b, [2, 3]))
            ],
        },
    )
    yield "key-wrong-weight", document(llama, "karcher", {"weight": 0.3})
    yield (
        "key-parameters-of-base",
        {
            **document(llama, "task_arithmetic"),
            "models": [{"model": base, "parameters": {"weight": 9.0}}, {"model": a}],
        },
    )
    yield from slices(llama)
    yield from modules(llama, models)
    yield from references(llama)
    yield from conditions(models)
    yield from vocabularies(llama)
    yield from documents(llama)
    yield from combinations(llama, models)


def source(model: str, first: int, last: int, **values: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"model": model, "layer_range": [first, last]}
    return {**item, "parameters": values} if values else item


def slices(llama: dict[str, str]) -> Iterator[tuple[str, Recipe]]:
    base, a, b, c = (llama[name] for name in ("base", "a", "b", "c"))
    stack = {"merge_method": "passthrough"}
    yield (
        "slices-stack",
        {**stack, "slices": [{"sources": [source(a, 0, 2)]}, {"sources": [source(b, 1, 3)]}]},
    )
    yield (
        "slices-tall",
        {
            **stack,
            "slices": [{"sources": [source(llama["tall"], 2, 5)]}, {"sources": [source(b, 0, 1)]}],
        },
    )
    yield "slices-one-layer", {**stack, "slices": [{"sources": [source(a, 2, 3)]}]}
    yield (
        "slices-order",
        {**stack, "slices": [{"sources": [source(a, n, n + 1)]} for n in (2, 0, 1)]},
    )
    yield (
        "slices-scale",
        {
            **stack,
            "slices": [
                {
                    "sources": [
                        source(a, 0, 2, scale=[{"filter": "o_proj", "value": 0}, {"value": 1}])
                    ]
                },
                {"sources": [source(b, 1, 3, scale=0.5)]},
            ],
        },
    )
    yield (
        "slices-none",
        {**stack, "slices": [{"sources": [source(a, 0, 2)]}, {"sources": [source(b, 1, 1)]}]},
    )
    yield (
        "slices-unequal",
        {
            "merge_method": "linear",
            "slices": [
                {"sources": [source(a, 0, 2, weight=1.0), source(b, 0, 2, weight=3.0)]},
                {"sources": [source(c, 1, 3, weight=1.0)]},
            ],
        },
    )
    yield (
        "slices-unequal-last",
        {
            "merge_method": "linear",
            "slices": [
                {"sources": [source(c, 0, 1, weight=1.0)]},
                {"sources": [source(a, 0, 2, weight=1.0), source(b, 0, 2, weight=3.0)]},
            ],
        },
    )
    yield (
        "slices-shifted",
        {
            "merge_method": "linear",
            "slices": [
                {"sources": [source(a, 0, 2, weight=1.0), source(llama["tall"], 3, 5, weight=2.0)]}
            ],
        },
    )
    yield (
        "slices-own",
        {
            "merge_method": "ties",
            "base_model": base,
            "slices": [
                {
                    "sources": [source(base, 0, 1), source(a, 0, 1, weight=0.3), source(b, 0, 1)],
                    "parameters": {"weight": 0.9, "density": 0.5},
                },
                {
                    "sources": [source(base, 1, 3), source(a, 1, 3), source(b, 1, 3)],
                    "parameters": {"weight": [0.1, 0.9], "lambda": 0.5, "normalize": False},
                },
            ],
            "parameters": {"density": 0.8, "lambda": 2.0},
        },
    )
    yield (
        "slices-gradient",
        {
            "merge_method": "slerp",
            "base_model": a,
            "slices": [{"sources": [source(a, 0, 3), source(b, 0, 3)]}],
            "parameters": {
                "t": [
                    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
                    {"value": 0.5},
                ]
            },
        },
    )
    yield (
        "slices-residual",
        {**stack, "slices": [{"sources": [source(a, 0, 3)], "residual_weight": 0.5}]},
    )
    for family in ("gpt2", "bert", "qwen2"):
        home = Path(a).parents[1] / family
        yield (
            f"slices-{family}",
            {
                **stack,
                "slices": [
                    {"sources": [source(str(home / "a"), 0, 2)]},
                    {"sources": [source(str(home / "b"), 1, 3)]},
                ],
            },
        )


def modules(llama: dict[str, str], models: Path) -> Iterator[tuple[str, Recipe]]:
    a, b = llama["a"], llama["b"]
    inside = linear(a, b)["models"]
    yield "modules-default", {"merge_method": "linear", "modules": {"default": {"models": inside}}}
    yield (
        "modules-slices",
        {
            "merge_method": "linear",
            "modules": {
                "default": {
                    "slices": [{"sources": [source(a, 0, 2), source(b, 1, 3)]}],
                    "parameters": {"weight": [0.2, 0.8]},
                }
            },
            "parameters": {"weight": 5.0},
        },
    )
    t5 = models / "t5"
    pair = linear(str(t5 / "a"), str(t5 / "b"))["models"]
    yield (
        "modules-t5",
        {
            "merge_method": "linear",
            "modules": {name: {"models": pair} for name in ("encoder", "decoder", "shared")},
        },
    )
    yield (
        "modules-t5-gradient",
        {
            "merge_method": "linear",
            "modules": {
                name: {
                    "models": [{"model": str(t5 / x)} for x in "ab"],
                    "parameters": {
                        "weight": [{"filter": "encoder", "value": [0.1, 0.9]}, {"value": 0.5}]
                    },
                }
                for name in ("encoder", "decoder", "shared")
            },
        },
    )
    yield "modules-unknown", {"merge_method": "linear", "modules": {"mystery": {"models": inside}}}


def conditions(models: Path) -> Iterator[tuple[str, Recipe]]:
    """Parts of names that files of LLaVA and its class spell differently."""
    pair = [{"model": str(models / "llava" / x)} for x in "ab"]
    for part in ("model.language_model", "language_model.layers", "lm_head", "model.vision_tower"):
        weight = [{"filter": part, "value": [0.1, 0.9]}, {"value": 0.5}]
        settings = {"weight": weight, "normalize": False}
        yield (
            f"condition-{part}",
            {"merge_method": "linear", "models": pair, "parameters": settings},
        )


def references(llama: dict[str, str]) -> Iterator[tuple[str, Recipe]]:
    a, b, base = llama["a"], llama["b"], llama["base"]
    yield "reference-lora", linear(f"{base}+{llama['adapter']}", b)
    yield (
        "reference-lora-table",
        linear(
            {"model": {"path": base}, "lora": {"path": llama["adapter"]}},
            b,  # type: ignore[arg-type]
        ),
    )
    yield (
        "reference-lora-base",
        {
            "merge_method": "ties",
            "base_model": base,
            "models": [{"model": f"{base}+{llama['adapter']}"}, {"model": a}],
            "parameters": {"weight": 0.5, "density": 0.7},
        },
    )
    yield "reference-table", linear({"model": {"path": a}}, b)  # type: ignore[arg-type]
    yield (
        "reference-override",
        linear(
            {"model": {"path": a}, "override_architecture": "LlamaForCausalLM"},
            b,  # type: ignore[arg-type]
        ),
    )


def vocabularies(llama: dict[str, str]) -> Iterator[tuple[str, Recipe]]:
    base, a = llama["base"], llama["a"]
    chatml, other = llama["chatml"], llama["other"]
    for name, value in {
        "source-base": {"tokenizer_source": "base"},
        "source-union": {"tokenizer_source": "union"},
        "source-model": {"tokenizer_source": chatml},
        "tokenizer-union": {"tokenizer": {"source": "union"}},
        "tokenizer-default": {"tokenizer": {"pad_to_multiple_of": None}},
        "tokenizer-model": {"tokenizer": {"source": chatml}},
        "tokenizer-pad": {"tokenizer": {"source": "union", "pad_to_multiple_of": 16}},
        "tokenizer-tokens": {
            "tokenizer": {
                "source": "union",
                "tokens": {
                    "_tok_10": {"source": chatml, "force": True},
                    "_tok_11": {"source": base, "force": True},
                    "<|im_end|>": {
                        "source": {"kind": "model_token", "model": base, "token": "</s>"}
                    },
                    "<|im_start|>": {"source": {"kind": "model_token", "model": a, "token_id": 5}},
                    "<new>": {"source": {"kind": "zero"}},
                },
            }
        },
        "tokenizer-force": {
            "tokenizer": {
                "source": "base",
                "tokens": {
                    "_tok_20": {
                        "source": {"kind": "model_token", "model": chatml, "token_id": 64},
                        "force": True,
                    }
                },
            }
        },
    }.items():
        yield f"{name}", {**linear(base, a, chatml), "base_model": base, **value}
        yield (
            f"{name}-ties",
            {
                "merge_method": "ties",
                "base_model": base,
                "models": [{"model": m} for m in (a, chatml)],
                "parameters": {"weight": 0.5, "density": 0.8},
                **value,
            },
        )
    yield "source-union-without-base", {**linear(a, chatml), "tokenizer_source": "union"}
    yield (
        "source-union-slerp",
        {
            "merge_method": "slerp",
            "base_model": base,
            "parameters": {"t": 0.4},
            "models": [{"model": base}, {"model": chatml}],
            "tokenizer_source": "union",
        },
    )
    yield (
        "source-union-three",
        {**linear(a, chatml, other), "base_model": a, "tokenizer_source": "union"},
    )
    yield "vocabularies-differ", linear(a, chatml)
    yield (
        "source-union-two-lack",
        {**linear(a, chatml, llama["b"]), "base_model": a, "tokenizer_source": "union"},
    )
    for name in ("auto", "chatml", "llama3", "{{ messages[0]['content'] }} and more"):
        short = re.sub(r"\W+", "", name)
        yield (
            f"template-{short}",
            {
                **linear(a, chatml),
                "base_model": a,
                "chat_template": name,
                "tokenizer_source": "base",
            },
        )


def documents(llama: dict[str, str]) -> Iterator[tuple[str, Recipe]]:
    a, b, c = (llama[name] for name in ("a", "b", "c"))
    first = {**document(llama, "ties"), "name": "first"}
    yield "documents-chain", [first, {**linear("first", c)}]
    yield (
        "documents-two",
        [
            {**linear(a, b, dtype="bfloat16"), "name": "one"},
            {**linear(b, c), "name": "two"},
            {
                "merge_method": "slerp",
                "base_model": "one",
                "parameters": {"t": 0.4},
                "models": [{"model": "one"}, {"model": "two"}],
            },
        ],
    )
    yield (
        "documents-base",
        [
            {**linear(a, b), "name": "base_of_all"},
            {**document(llama, "task_arithmetic"), "base_model": "base_of_all"},
        ],
    )


def combinations(llama: dict[str, str], models: Path) -> Iterator[tuple[str, Recipe]]:
    """Recipes in which several of these meet, as people write them."""
    base, a, b, c = (llama[name] for name in ("base", "a", "b", "c"))
    chatml, other, tall = (llama[name] for name in ("chatml", "other", "tall"))
    lora = f"{base}+{llama['adapter']}"
    by_part = [
        {"filter": "self_attn.q_proj", "value": [0.1, 0.6, 0.9]},
        {"filter": "mlp", "value": 0.25},
        {"filter": "embed_tokens", "value": 0.7},
        {"value": [0.8, 0.2]},
    ]

    def pieces(*rows: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        return {"slices": [{"sources": row} for row in rows], **rest}

    yield (
        "combined-slices-union-filters",
        {
            "merge_method": "ties",
            "base_model": base,
            **pieces(
                [source(base, 0, 2), source(a, 0, 2, weight=by_part), source(chatml, 0, 2)],
                [source(base, 2, 3), source(a, 2, 3), source(chatml, 2, 3, density=0.4)],
            ),
            "parameters": {"weight": 0.6, "density": [0.9, 0.5], "normalize": True},
            "tokenizer": {"source": "union", "pad_to_multiple_of": 8},
            "out_dtype": "float16",
        },
    )
    yield (
        "combined-gradients-unequal-slices",
        {
            "merge_method": "slerp",
            "base_model": a,
            **pieces(
                [source(a, 0, 2), source(tall, 1, 3)],
                [source(b, 1, 2), source(a, 2, 3)],
                [source(a, 0, 3), source(tall, 2, 5)],
            ),
            "parameters": {"t": by_part},
        },
    )
    yield (
        "combined-normalize-lambda",
        {
            **document(llama, "task_arithmetic", {"normalize": True, "lambda": [0.3, 1.2]}),
            "models": [
                {"model": a, "parameters": {"weight": by_part, "density": 0.5}},
                {"model": b, "parameters": {"weight": -0.4}},
                {"model": base, "parameters": {"weight": 3.0}},
            ],
            "dtype": "float32",
            "out_dtype": "bfloat16",
        },
    )
    yield (
        "combined-della",
        {
            **document(llama, "della", {"lambda": 1.1, "normalize": False, "rescale": False}),
            "models": [
                {"model": a, "parameters": {"weight": 0.5, "density": 0.5, "epsilon": 0.2}},
                {"model": chatml, "parameters": {"weight": [0.2, 0.9], "density": 0.7}},
            ],
            "tokenizer_source": "base",
        },
    )
    yield (
        "combined-sce-slices",
        {
            "merge_method": "sce",
            "base_model": base,
            **pieces(
                [source(base, 0, 1), source(a, 0, 1), source(b, 0, 1), source(c, 0, 1)],
                [source(base, 1, 3), source(a, 1, 3), source(b, 1, 3)],
            ),
            "parameters": {"select_topk": by_part},
            "dtype": "bfloat16",
        },
    )
    yield (
        "combined-karcher-slices",
        {
            "merge_method": "karcher",
            **pieces([source(a, 0, 2), source(b, 1, 3)], [source(c, 2, 3), source(tall, 4, 5)]),
            "parameters": {"max_iter": 20, "tol": 1e-7},
            "tokenizer_source": "union",
        },
    )
    yield (
        "combined-nearswap-vocabulary",
        {
            **document(
                llama, "nearswap", {"t": [{"filter": "norm", "value": 0.5}, {"value": 0.03}]}
            ),
            "models": [{"model": chatml}],
            "tokenizer": {"source": chatml, "tokens": {"<|im_end|>": {"source": chatml}}},
            "chat_template": "auto",
        },
    )
    yield (
        "combined-multislerp-union",
        {
            **document(llama, "multislerp"),
            "models": [
                {"model": chatml, "parameters": {"weight": 0.3}},
                {"model": other, "parameters": {"weight": by_part}},
                {"model": b, "parameters": {"weight": 1.0}},
            ],
            "tokenizer": {"pad_to_multiple_of": 32},
            "dtype": "bfloat16",
        },
    )
    scale = [
        {"filter": "down_proj", "value": 0.5},
        {"filter": "o_proj", "value": [0.2, 1.0]},
        {"value": 1.0},
    ]
    yield (
        "combined-passthrough-scale-lora",
        {
            "merge_method": "passthrough",
            **pieces(
                [source(lora, 0, 2, scale=scale)],
                [source(b, 1, 3)],
                [source(tall, 3, 5, scale=0.9)],
                parameters={"scale": [1.0, 0.8]},
            ),
            "base_model": b,
            "chat_template": "chatml",
            "dtype": "bfloat16",
        },
    )
    yield (
        "combined-base-with-lora",
        {
            **document(llama, "breadcrumbs_ties", {"gamma": [0.0, 0.1], "density": by_part}),
            "base_model": lora,
            "models": [{"model": a}, {"model": base, "parameters": {"weight": [1, -1]}}],
            "out_dtype": "float16",
        },
    )
    first = {
        **document(llama, "ties", {"density": 0.4}),
        "name": "first",
        "models": [{"model": lora}, {"model": chatml}],
        "tokenizer_source": "union",
    }
    yield (
        "combined-documents-slices",
        [
            first,
            {**linear(a, tall), "models": [{"model": tall}], "name": "second"}
            | {"merge_method": "passthrough"},
            {
                "merge_method": "passthrough",
                **pieces([source("first", 0, 2)], [source("second", 3, 5, scale=0.5)]),
                "base_model": "first",
                "tokenizer_source": "base",
            },
        ],
    )
    yield (
        "combined-documents-lora",
        [
            {**linear(a, base), "name": "mean"},
            {
                **document(llama, "dare_ties", {"density": 0.5, "rescale": False}),
                "base_model": f"mean+{llama['adapter']}",
                "models": [{"model": b}, {"model": "mean"}],
            },
        ],
    )
    t5 = models / "t5"
    yield (
        "combined-modules-slices",
        {
            "merge_method": "slerp",
            "base_model": str(t5 / "base"),
            "modules": {
                "encoder": {
                    "slices": [
                        {"sources": [source(str(t5 / x), *r) for x in ("base", "a")]}
                        for r in ((0, 2), (1, 3))
                    ],
                    "parameters": {"t": by_part},
                },
                "decoder": {"models": [{"model": str(t5 / x)} for x in ("base", "b")]},
                "shared": {"models": [{"model": str(t5 / x)} for x in ("base", "a")]},
            },
            "parameters": {"t": [0.1, 0.9]},
        },
    )
    yield (
        "combined-stock-vocabularies",
        {
            **document(llama, "model_stock", {"filter_wise": True}),
            "models": [{"model": chatml}, {"model": other}, {"model": a}],
            "tokenizer_source": "union",
            "out_dtype": "bfloat16",
        },
    )
    yield (
        "combined-nuslerp-slices",
        {
            "merge_method": "nuslerp",
            "base_model": base,
            **pieces(
                [source(base, 0, 1), source(a, 0, 1, weight=by_part), source(b, 0, 1, weight=2)],
                [source(base, 1, 3), source(b, 1, 3, weight=0.2), source(c, 0, 2, weight=0.8)],
            ),
            "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        },
    )
    yield (
        "combined-ram-float16",
        {
            **document(llama, "ramplus_tl", {"r": [0.1, 0.5], "alpha": by_part}),
            "models": [{"model": m} for m in (llama["few"], llama["fewer"], lora)],
            "dtype": "float16",
        },
    )
    qwen = {path.name: str(path) for path in (models / "qwen2").iterdir()}
    yield (
        "combined-fusion-slices",
        {
            "merge_method": "arcee_fusion",
            "base_model": qwen["base"],
            **pieces(
                [source(qwen["base"], 0, 2), source(qwen["a"], 1, 3)],
                [source(qwen["base"], 2, 3), source(qwen["b"], 0, 1)],
            ),
        },
    )
    part = [{"filter": "mlp", "value": False}]
    yield (
        "combined-dare-conditions",
        {
            **document(llama, "dare_linear", {"normalize": True, "rescale": part}),
            "models": [
                {"model": a, "parameters": {"density": by_part, "weight": 1}},
                {"model": b, "parameters": {"density": 0.3, "weight": [0.0, 1.0]}},
            ],
        },
    )
    yield (
        "combined-weights-sum-to-nothing",
        {
            "merge_method": "linear",
            "models": [
                {"model": a, "parameters": {"weight": [1, -1]}},
                {"model": b, "parameters": {"weight": [-1, 1]}},
                {"model": c, "parameters": {"weight": 0.0}},
            ],
        },
    )
    gpt2 = {path.name: str(path) for path in (models / "gpt2").iterdir()}
    yield (
        "combined-gpt2-filters",
        {
            **document(gpt2, "della_linear", {"epsilon": 0.2, "lambda": [1.0, 0.2]}),
            "models": [
                {"model": gpt2["a"], "parameters": {"weight": [{"filter": "attn", "value": 1}]}},
                {"model": gpt2["b"], "parameters": {"density": [0.4, 0.6]}},
            ],
        },
    )


def examples(source: Path, models: Path) -> Iterator[tuple[str, str]]:
    """mergekit's examples, their models replaced by stand-ins of 40 layers cut to what is there."""
    for path in sorted((source / "examples").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        names = iter(("a", "b", "c", "few", "fewer"))
        found: dict[str, str] = {}
        base = re.search(r"^base_model: (\S+)", text, re.MULTILINE)
        used = re.findall(r"model: (\S+)", text)
        if base is not None and used.count(base[1]) == 1:
            found[base[1]] = "base"
        for name in used:
            if name not in found:
                found[name] = next(names)
        for name, stand_in in sorted(found.items(), key=lambda item: -len(item[0])):
            text = re.sub(rf"{re.escape(name)}(?=\s|$)", str(models / "llama" / stand_in), text)
        text = text.replace("[0, 40]", "[0, 3]").replace("[0, 24]", "[0, 2]")
        yield f"example-{path.stem}", text.replace("[20, 40]", "[1, 3]")
