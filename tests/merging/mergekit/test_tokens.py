"""One vocabulary for several models: tokens, numbers, vectors, and the files beside the weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.errors import CheckpointError, MethodError
from stockpot.merging.merge import run_merge
from stockpot.merging.recipe import load_recipe

WIDTH = 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 4,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
}
TOKENS = ["<unk>", "<s>", "</s>", "red", "green", "blue"]


def write_model(transformers, folder, tokens, seed, *, extra=(), rows=None, template=None):
    """A model of nothing but embeddings and head, and its tokenizer; gives the embeddings."""
    import tokenizers

    folder.mkdir()
    known = {token: number for number, token in enumerate(tokens)}
    model = tokenizers.models.BPE(vocab=known, merges=[], unk_token="<unk>")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model),
        unk_token="<unk>",
    )
    fast.add_tokens(list(extra))
    fast.chat_template = template
    fast.save_pretrained(folder)
    rows = rows or len(tokens) + len(extra)
    rng = np.random.default_rng(seed)
    state = {
        "model.embed_tokens.weight": rng.standard_normal((rows, WIDTH)).astype(np.float32),
        "model.layers.0.mlp.up_proj.weight": rng.standard_normal((4, WIDTH)).astype(np.float32),
        "lm_head.weight": rng.standard_normal((rows, WIDTH)).astype(np.float32),
    }
    write_checkpoint(folder / "model.safetensors", state)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": rows}))
    return state["model.embed_tokens.weight"]


@pytest.fixture
def models(transformers, tmp_path):
    return {
        "base": write_model(
            transformers, tmp_path / "base", TOKENS, 1, template="{{ base }} {{ messages }}"
        ),
        "more": write_model(
            transformers,
            tmp_path / "more",
            TOKENS,
            2,
            extra=["<a>", "<b>"],
            template="{{ messages }} of more",
        ),
        "kin": write_model(
            transformers,
            tmp_path / "kin",
            TOKENS,
            3,
            extra=["<b>"],
            template="{{ messages }} of more",
        ),
    }


@pytest.fixture
def merge_all(transformers, tmp_path):
    """Merge the three by equal weights; gives the tokenizer, the embeddings and the folder."""

    def merged(text="", models=("base", "more", "kin"), base="base_model: ./base"):
        listed = "".join(f"\n- {{model: ./{name}, parameters: {{weight: 1}}}}" for name in models)
        path = tmp_path / "recipe.yaml"
        path.write_text(f"merge_method: linear\n{base}\nmodels:{listed}\n{text}\n")
        out = tmp_path / "out"
        report = run_merge(load_recipe(path), out, overwrite=True)
        with open_checkpoint(out) as written:
            embeddings = written.read("model.embed_tokens.weight").copy()
            assert written.info("lm_head.weight").shape == embeddings.shape
        config = json.loads((out / "config.json").read_text())
        assert config["vocab_size"] == len(embeddings)
        return transformers.AutoTokenizer.from_pretrained(out), embeddings, out, report

    return merged


def test_the_base_vocabulary_leaves_other_tokens_out(models, merge_all):
    tokenizer, found, *_ = merge_all("tokenizer_source: base")
    assert tokenizer.get_vocab() == {token: n for n, token in enumerate(TOKENS)}
    np.testing.assert_allclose(found, sum(e[:6] for e in models.values()) / 3, rtol=1e-5, atol=1e-7)


def test_a_document_that_others_build_on_keeps_its_vocabulary(models, tmp_path, transformers):
    inner = "name: both\nmerge_method: linear\ntokenizer_source: union\nbase_model: ./base\n"
    inner += "parameters: {weight: 1}\nmodels: [{model: ./base}, {model: ./more}]"
    outer = "merge_method: passthrough\nmodels: [{model: both}]\ntokenizer_source: base"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{inner}\n---\n{outer}\nbase_model: both\n")
    run_merge(load_recipe(path), tmp_path / "out")
    number = transformers.AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert number == {token: n for n, token in enumerate([*TOKENS, "<a>", "<b>"])}
    with open_checkpoint(tmp_path / "out") as written:
        row = written.read("model.embed_tokens.weight")[6]
    np.testing.assert_allclose(row, models["more"][6], rtol=1e-5)


def test_a_union_gives_a_token_to_those_that_lack_it(models, merge_all):
    tokenizer, found, *_ = merge_all("tokenizer_source: union")
    number = tokenizer.get_vocab()
    assert set(number) == {*TOKENS, "<a>", "<b>"}
    np.testing.assert_allclose(found[number["<a>"]], models["more"][6], rtol=1e-5)
    # Two of three have <b>, the base has not: the mean of the two, for all three.
    mean = (models["more"][7] + models["kin"][6]) / 2
    np.testing.assert_allclose(found[number["<b>"]], mean, rtol=1e-5)


def test_the_base_lends_its_vector_before_others(models, merge_all):
    tokenizer, found, *_ = merge_all(
        "tokenizer_source: union", models=("more", "kin", "base"), base="base_model: ./kin"
    )
    number = tokenizer.get_vocab()["<b>"]
    expected = (models["more"][7] + 2 * models["kin"][6]) / 3
    np.testing.assert_allclose(found[number], expected, rtol=1e-5)


def test_the_vocabulary_of_a_model_padded_to_a_multiple(models, merge_all):
    tokenizer, found, *_ = merge_all("tokenizer: {source: ./more, pad_to_multiple_of: 5}")
    assert tokenizer.get_vocab()["<a>"] == 6
    assert len(found) == 10
    np.testing.assert_allclose(found[8:], np.tile(found[:8].mean(0), (2, 1)), rtol=1e-4, atol=1e-6)


def test_single_tokens(models, merge_all):
    tokenizer, found, *_ = merge_all(
        """
tokenizer:
  source: union
  tokens:
    red: {source: ./more, force: true}
    green: {source: {kind: model_token, model: ./kin, token_id: 6}, force: true}
    <a>: {source: {kind: model_token, model: ./base, token: blue}}
    <new>: {source: {kind: zero}}
"""
    )
    number = tokenizer.get_vocab()
    np.testing.assert_allclose(found[number["red"]], models["more"][3], rtol=1e-6)
    np.testing.assert_allclose(found[number["green"]], models["kin"][6], rtol=1e-6)
    mixed = (2 * models["base"][5] + models["more"][6]) / 3
    np.testing.assert_allclose(found[number["<a>"]], mixed, rtol=1e-5)
    assert (found[number["<new>"]] == 0).all()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{source: ./base, force: true}", "'<a>' is not in"),
        ("{force: true}", "needs a 'source'"),
        ("{source: {kind: model_token, model: ./kin, token: yellow}}", "'yellow' is not in"),
        ("{source: ./absent}", "not among the models"),
    ],
)
def test_a_token_without_a_vector_is_refused(models, merge_all, rule, words):
    with pytest.raises(MethodError, match=words):
        merge_all(f"tokenizer: {{source: union, tokens: {{<a>: {rule}}}}}")


def test_tokens_of_the_base_without_a_row_are_taken_out(transformers, models, merge_all, tmp_path):
    write_model(transformers, tmp_path / "padded", TOKENS, 4, extra=["<unused>"], rows=6)
    tokenizer, *_ = merge_all(
        "tokenizer_source: union", models=("padded", "more"), base="base_model: ./padded"
    )
    assert set(tokenizer.get_vocab()) == {*TOKENS, "<a>", "<b>"}


def test_without_a_tokenizer_key_other_sizes_are_refused(models, merge_all):
    with pytest.raises(CheckpointError, match=r"has shapes \(6, 4\), \(7, 4\), \(8, 4\)"):
        merge_all()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("auto", "{{ messages }} of more"),
        ("chatml", "<|im_start|>"),
        ("'{{ messages }} and a text of its own'", "and a text of its own"),
    ],
)
def test_chat_templates(models, merge_all, wanted, words):
    tokenizer, *_ = merge_all(f"tokenizer_source: base\nchat_template: {wanted}")
    assert words in tokenizer.chat_template


def test_chatml():
    import jinja2

    from stockpot.merging.mergekit.outputs import CHATML

    said = [{"role": "user", "content": "hi"}]
    text = jinja2.Template(CHATML).render(messages=said, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_tokenizer_key_the_bases_files_are_kept(models, merge_all):
    tokenizer, _, out, _ = merge_all(models=("base",))
    assert tokenizer.chat_template == "{{ base }} {{ messages }}"
    assert len(tokenizer.get_vocab()) == 6
    assert (out / "tokenizer.json").is_file()
