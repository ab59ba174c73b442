"""Write docs/formats.md from the declaration of the formats: ``python docs/make_formats.py``.

A test compares the file with what this writes, so the page cannot go stale.
"""

from __future__ import annotations

from pathlib import Path

from stockpot.checkpoints.encodings.formats import FORMATS

PAGE = Path(__file__).parent / "formats.md"

OPENING = """\
# Formats of weights

<!-- Written by docs/make_formats.py; change the declaration, not this page. -->

One door, `stockpot.open_checkpoint`, opens weights for `merge`, `inspect`, `recycle`, `tangent` and
reviews. What it opens is read with its true meaning, or refused in one line that names the format
and a tensor (exit code 2, nothing written).

## Encoded weights

Encoded weights are found by `quantization_config` (or `quantize_config.json`,
`quant_config.json`, `hf_quant_config.json`) **and** by the tensors that are stored. They are read
as the floats that they stand for: float32 arithmetic on the stored numbers, piece by piece, so that
a merge needs no more memory than one of plain weights. A result holds them as bfloat16 unless
`--dtype` says otherwise, its config says nothing of quantisation, and its report which parents were
decoded. A registry keeps them as they are, and their digest is that of what is stored.

`python benchmarks/encoded_weights.py` holds all of this against the libraries that encode:
transformers (FP8, MXFP4), bitsandbytes, compressed-tensors and gguf give the same float32 numbers
bit for bit (bitsandbytes int8 to 7e-8, compressed-tensors NVFP4 to its own rounding to bfloat16).

| format | what is stored | a weight is |
|---|---|---|
"""

BETWEEN = """
Refused, by name:

| format | what is stored | because |
|---|---|---|
"""

REST = """
Also refused: encoded weights of models whose layers keep their weights transposed (GPT-2's
`Conv1D`) under GPTQ, AWQ and bitsandbytes; GPTQ without a config that says bits and layout; blocks
of scales that neither a config nor the shapes tell (128 x 128 are DeepSeek-V3's, arXiv 2412.19437);
`transform_config` (rotated weights); scales,
zero points and codes without their weights; integers called `weight` of any other kind.

A config may declare a quantisation for plain weights, to be made when they are loaded: that stays.

## Integers

Integer and boolean tensors (position ids, masks) must be equal in all parents. Where they differ,
a merge refuses and names them; `--heads first` keeps the first model's, `--heads drop` leaves
them out. A single number (`num_batches_tracked`) is a counter: the first model's is kept.

## Containers

| container | |
|---|---|
| safetensors, one file or shards with an index | read |
| PyTorch files (`.pt`, `.pth`, `.bin`, `.ckpt`), shards with an index | read with `weights_only`; \
tables `state_dict`, `model`, `module`, ... are unwrapped (Lightning, DeepSpeed without ZeRO 3) |
| averaged (EMA) beside plain weights in one PyTorch file | refused until one is named: \
`last.ckpt::ema` |
| folders of transformers, timm, open_clip | read |
| sentence-transformers (`modules.json`), diffusers (`model_index.json`) | read: every component \
with weights, as `component/name`; written component by component under the same file names |
| LoRA adapters of PEFT | read, on their base |
| GGUF | read (extra `gguf`), into one safetensors file with GGUF's names |
| PyTorch distributed checkpoints (`.metadata` and `*.distcp`; FSDP's `pytorch_model_fsdp_0`) | \
read, pieces put together, without running what the pickle names; optimizer left out |
| DeepSpeed folders | read where one `mp_rank_00_model_states.pt` holds the model (ZeRO 1, 2); cut \
by ranks or ZeRO 3: refused, with the command that joins them |

## Configs

Parents' configs, image processors and tokenizers are compared before anything is written. What
changes the meaning of weights refuses (`--force` accepts): rotary embeddings (arXiv 2104.09864;
in the words of transformers 4 and 5, base 10,000 where none is named), activations, head counts,
epsilons of norms, windows and layer types, scale
factors, experts per token, image mean and deviation, lower case, normaliser, pre-tokenizer and
merges of a tokenizer, and the labels of a head in another order. Other differences are noted in the
report. A recipe of mergekit is carried out as mergekit does it, with all of it noted.

## A folder that loads

A folder of transformers or timm is loaded by its own library, without data (meta device), before it
is kept: tensors that are missing, left over or of another shape are an error, unless the first
parent's folder has the same fault, which is then noted. This needs the library and torch, which
merging does not: a process of its own starts with the merge, imports them meanwhile and is asked
at the end, so a large merge takes no longer. Where the library is not installed nothing is checked;
`--no-check-load` leaves the check out.
"""


def page() -> str:
    """The page as Markdown."""
    read, refused = [], []
    for entry in FORMATS.values():
        if entry.refused:
            refused.append(f"| {entry.title} | {entry.stored} | {entry.refused} |")
        else:
            read.append(f"| {entry.title} | {entry.stored} | {entry.arithmetic} |")
    return OPENING + "\n".join(read) + "\n" + BETWEEN + "\n".join(refused) + "\n" + REST


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
