"""The side of ``mergekit_parity.py`` that runs under the Python that has mergekit.

    python mergekit_worker.py models FOLDER             make the stand-in models
    python mergekit_worker.py tests FOLDER SOURCE       run mergekit's tests, keep their recipes
    python mergekit_worker.py merge FOLDER              merge FOLDER/recipes/*.yml
    python mergekit_worker.py facts FOLDER              write FOLDER/facts.json: the names of all
                                                        keys, methods and parameters, and defaults

Every merge leaves its result in ``FOLDER/mergekit/NAME``, or the reason why there is none in
``FOLDER/mergekit/NAME.error``.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
import yaml

STD = 0.05
FAMILIES = ("llama", "mistral", "gpt2", "bert", "qwen2", "granite", "t5", "llava")


def config(family: str, vocabulary: int = 64, layers: int = 3) -> Any:
    small = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48}
    decoder = {**small, "num_hidden_layers": layers, "num_attention_heads": 4}
    kinds = {
        "llama": (transformers.LlamaConfig, decoder),
        "mistral": (transformers.MistralConfig, {**decoder, "num_key_value_heads": 2}),
        "qwen2": (transformers.Qwen2Config, {**decoder, "num_key_value_heads": 2}),
        "granite": (transformers.GraniteConfig, {**decoder, "num_key_value_heads": 2}),
        "gpt2": (
            transformers.GPT2Config,
            {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": layers, "n_positions": 32},
        ),
        "bert": (transformers.BertConfig, decoder),
        "t5": (
            transformers.T5Config,
            {
                "vocab_size": 64,
                "d_model": 32,
                "d_ff": 48,
                "d_kv": 8,
                "num_heads": 4,
                "num_layers": layers,
                "num_decoder_layers": 2,
                "feed_forward_proj": "gated-gelu",
            },
        ),
    }
    kind, values = kinds[family]
    return kind(**values)


def build(family: str, vocabulary: int = 64, layers: int = 3) -> Any:
    torch.manual_seed(0)
    if family == "bert":
        return transformers.BertForSequenceClassification(config(family, layers=layers))
    if family == "t5":
        return transformers.T5ForConditionalGeneration(config(family, layers=layers))
    if family == "llava":
        vision = transformers.CLIPVisionConfig(
            image_size=32,
            patch_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_size=32,
            intermediate_size=48,
        )
        both = transformers.LlavaConfig(
            vision_config=vision, text_config=config("llama"), image_seq_length=16
        )
        return transformers.LlavaForConditionalGeneration(both)
    return transformers.AutoModelForCausalLM.from_config(config(family, vocabulary, layers))


def tokenizer(vocabulary: int, added: list[str]) -> Any:
    import tokenizers

    tokens = ["<unk>", "<s>", "</s>", *(f"_tok_{n}" for n in range(3, vocabulary))]
    model = {"type": "BPE", "vocab": {t: n for n, t in enumerate(tokens)}, "merges": []}
    text = json.dumps({"version": "1.0", "model": model, "added_tokens": []})
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "tokenizer.json")
        tokenizers.Tokenizer.from_str(text).save(path)
        made = transformers.LlamaTokenizerFast(tokenizer_file=path)
    made.add_tokens(added)
    return made


def moved(model: Any, seed: int, std: float, share: float = 1.0) -> Any:
    """A fine-tuning: noise on a share of the entries, some of it common to all."""
    other = copy.deepcopy(model)
    common = torch.Generator().manual_seed(99)
    own = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = 0.5 * torch.randn(parameter.shape, generator=common)
            noise += torch.randn(parameter.shape, generator=own)
            noise *= torch.rand(parameter.shape, generator=own) < share
            parameter += std * noise
    return other


def adapter(model: Any, folder: Path) -> None:
    import peft

    torch.manual_seed(5)
    wrapped = peft.get_peft_model(
        copy.deepcopy(model),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape)
    wrapped.save_pretrained(folder)


def models(folder: Path) -> None:
    """base, a, b, c (far), near (close by), sparse ones, and kin with other vocabularies."""
    for family in FAMILIES:
        base = build(family)
        home = folder / "models" / family
        variants = {"base": base}
        variants |= {name: moved(base, n, STD) for n, name in enumerate("abc", 1)}
        if family == "llama":
            variants |= {name: moved(base, n, 1e-4) for n, name in ((4, "near"), (5, "nearer"))}
            variants |= {name: moved(base, n, STD, 0.3) for n, name in ((6, "few"), (7, "fewer"))}
            variants["half"] = copy.deepcopy(variants["a"]).to(torch.bfloat16)
            variants["half_base"] = copy.deepcopy(base).to(torch.bfloat16)
            variants["half_b"] = copy.deepcopy(variants["b"]).to(torch.bfloat16)
            variants["tall"] = moved(build(family, layers=5), 8, STD)
            variants["chatml"] = moved(resized(base, 66), 9, STD)
            variants["other"] = moved(resized(base, 65), 10, STD)
            adapter(base, home / "adapter")
        for name, model in variants.items():
            model.save_pretrained(home / name)
        if family == "llama":
            for name in variants:
                added = {"chatml": ["<|im_start|>", "<|im_end|>"], "other": ["<|other|>"]}
                made = tokenizer(64, added.get(name, []))
                if name == "chatml":
                    made.chat_template = "{{ messages }} <|im_start|>"
                made.save_pretrained(home / name)


def resized(model: Any, size: int) -> Any:
    other = copy.deepcopy(model)
    torch.manual_seed(size)
    other.resize_token_embeddings(size, mean_resizing=False)
    return other


def draw_masks() -> None:
    """Let mergekit draw its random masks from stockpot's numbers, so that results can be equal.

    Only the numbers are exchanged: where, how often and against what they are drawn stays
    mergekit's.
    """
    import mergekit.sparsify
    from mergekit.merge_methods import generalized_task_arithmetic as arithmetic

    source = Path(__file__).parents[1] / "src/stockpot/merging/random.py"
    specification = importlib.util.spec_from_file_location("stockpot_random", source)
    numbers = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(numbers)
    position = {"tensor": "", "model": 0}

    def in_file(name: str) -> str:
        """The name in the file, where that of LLaVA's class is a newer one."""
        prefixes = {
            "model.language_model.": "language_model.model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "model.vision_tower.": "vision_tower.",
        }
        for prefix, before in prefixes.items():
            if name.startswith(prefix):
                return before + name.removeprefix(prefix)
        return name

    kind, sparsify = arithmetic.GeneralizedTaskArithmeticMerge, arithmetic.sparsify
    merge_group = kind.merge_group

    def merge_named(self: Any, group: Any, /, **parameters: Any) -> Any:
        position.update(tensor=in_file(group.metadata.name), model=-1)
        return merge_group(self, group, **parameters)

    def sparsify_numbered(*arguments: Any, **options: Any) -> Any:
        position["model"] += 1
        return sparsify(*arguments, **options)

    def bernoulli(probabilities: Any) -> Any:
        drawn = numbers.uniform(0, position["tensor"], position["model"], 0, probabilities.numel())
        drawn = torch.from_numpy(drawn).reshape(probabilities.shape)
        return (drawn < probabilities).to(probabilities.dtype)

    arithmetic.sparsify = sparsify_numbered
    kind.merge_group = merge_named
    mergekit.sparsify.torch = SimpleNamespace(**{**vars(torch), "bernoulli": bernoulli})


def merge(folder: Path) -> None:
    """Merge every recipe that has no result yet."""
    draw_masks()
    for recipe in sorted((folder / "recipes").glob("*.yml")):
        out = folder / "mergekit" / recipe.stem
        if out.exists() or out.with_name(f"{out.name}.error").exists():
            continue
        try:
            merge_one(recipe.read_text(encoding="utf-8"), out, folder)
        except BaseException as error:
            shutil.rmtree(out, ignore_errors=True)
            words = f"{type(error).__name__}: {error}".splitlines()
            out.with_name(f"{out.name}.error").write_text(" ".join(words), encoding="utf-8")


def merge_one(text: str, out: Path, folder: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    options = MergeOptions(quiet=True, lora_merge_cache=str(folder / "lora"), random_seed=0)
    documents = list(yaml.safe_load_all(text))
    if len(documents) == 1:
        configuration = MergeConfiguration.model_validate(documents[0])
        run_merge(configuration, str(out), options=options, config_source=text)
        return
    from mergekit.scripts.multimerge import load_config, make_tasks

    between = folder / "between" / out.name
    between.mkdir(parents=True)
    tasks = make_tasks(
        *load_config(text, str(between)), options, str(between), str(out), lazy=False
    )
    from mergekit.graph import Executor

    Executor(tasks, math_device="cpu", storage_device="cpu").execute()


def tests(folder: Path, source: Path) -> None:
    """Run mergekit's tests; every merge they make becomes a recipe with a result."""
    import mergekit.merge
    import pytest

    draw_masks()
    sys.path.insert(0, str(source))
    import tests.common as common

    original, count = mergekit.merge.run_merge, [0]

    def recorded(configuration: Any, out_path: str, options: Any, **rest: Any) -> None:
        test = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
        count[0] += 1
        name = f"test-{test.removeprefix('test_')}-{count[0]}"
        text = configuration.to_yaml()
        (folder / "recipes" / f"{name}.yml").write_text(text, encoding="utf-8")
        out = folder / "mergekit" / name
        try:
            original(configuration, out_path, options, **rest)
        except Exception as error:
            out.with_name(f"{name}.error").write_text(f"{type(error).__name__}: {error}")
            raise
        shutil.copytree(out_path, out)

    def small_gpt2(path: str) -> str:
        values = {"n_embd": 32, "n_head": 4, "n_layer": 12, "n_positions": 32, "vocab_size": 128}
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**values)).save_pretrained(path)
        return str(path)

    common.run_merge = recorded
    common.make_gpt2size = small_gpt2
    chosen = ["test_basic_merges.py", "test_tokenizer.py", "test_chat_template.py"]
    files = [str(source / "tests" / name) for name in chosen]
    pytest.main(["-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'test-models'}", *files])


def facts(folder: Path) -> None:
    """What mergekit declares, as names and values (``tests/merging/mergekit/facts.json``)."""
    from mergekit import common, config
    from mergekit.architecture.json_definitions import NAME_TO_ARCH
    from mergekit.merge_methods import registry
    from mergekit.moe import config as moe
    from mergekit.tokenizer import config as tokenizer

    tables = {
        "file": config.MergeConfiguration,
        "model": config.InputModelDefinition,
        "slice": config.OutputSliceDefinition,
        "source": config.InputSliceDefinition,
        "module": config.OutputModuleDefinition,
        "condition": config.ConditionalParameter,
        "reference": common.ModelReference,
        "path": common.ModelPath,
        "tokenizer": tokenizer.TokenizerConfig,
        "token": tokenizer.TokenEmbeddingConfig,
        "token source": tokenizer.ModelTokenEmbedding,
        "mixture": moe.MoEMergeConfig,
        "expert": moe.Expert,
    }
    methods = {}
    for method in registry.registered_methods():
        spec, contract = method.spec, method.spec.contract
        methods[spec.name] = {
            "base": contract.base.value,
            "inputs": [contract.min_inputs, contract.max_inputs],
            "others": [contract.min_non_base, contract.max_non_base],
            "parameters": {
                p.name: {
                    "type": getattr(p.value_type, "__name__", "float"),
                    "scope": p.scope.value,
                    **({} if p.required else {"default": p.default}),
                }
                for p in spec.parameters
            },
        }
    found = {
        "version": "0.1.5",
        "keys": {name: sorted(table.model_fields) for name, table in tables.items()},
        "methods": methods,
        "architectures": sorted({*NAME_TO_ARCH, "AfmoeForCausalLM", "Glm4MoeForCausalLM"}),
    }
    (folder / "facts.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    command, where, *rest = sys.argv[1:]
    home = Path(where)
    for part in ("recipes", "mergekit"):
        (home / part).mkdir(parents=True, exist_ok=True)
    commands = {"models": models, "merge": merge, "tests": tests, "facts": facts}
    commands[command](home, *map(Path, rest))
