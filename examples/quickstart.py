"""From a base and somebody else's fine-tuning of it to one model that holds up on a new source.

Run it with ``python examples/quickstart.py`` (about three minutes on two cores; the first time it
downloads 170 MB of weights and texts). Everything here is the public API; read it from top to
bottom.
"""

from pathlib import Path

import stockpot
from stockpot.demo import fetch


def main() -> None:
    # 1. What exists: a pretrained base, a fine-tuning of it from the wild, texts from four sources.
    assets = fetch(["minilm", "sre", "sentiment"])

    # 2. Do the two checkpoints belong together? Averaging strangers gives noise.
    verdict = stockpot.compare([assets["minilm"], assets["sre"]])
    print(f"{verdict.verdict}: {verdict.reason}")

    # 3. The recipe, as plain data. `stockpot recycle recipe.yaml` takes the same from a file.
    recipe = {
        "title": "Quickstart",
        "task": {
            "kind": "text",
            "path": str(assets["sentiment"] / "sentiment.csv"),
            "target": "sign",
            "margin": 0.5,
        },
        "held_out": ["movies"],
        "backbone": {
            "kind": "transformers",
            "name": str(assets["minilm"]),
            "max_length": 32,
            "freeze_below": "encoder.layer.5",
        },
        "auxiliaries": [{"name": "sre", "weights": str(assets["sre"])}],
        "training": {
            "steps": 60,
            "learning_rate": [1e-4, 5e-5, 2e-4],
            "limit_per_domain": 800,
        },
        "protocols": ["linear_probe", "single", "erm", "soup_uniform", "ratatouille_uniform"],
        "runs": 4,
    }
    done = stockpot.recycle(recipe, output="quickstart-output")

    # 4. What came out, with an interval for every number.
    for row in done.results["table"]:
        print(f"{row['label']:<36} {row['mean']:.1%}  ({row['low']:.1%} to {row['high']:.1%})")

    # 5. The model is a Hugging Face folder like the base, with the head beside it.
    from safetensors.numpy import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(done.model)
    model = AutoModel.from_pretrained(done.model)
    head = load_file(Path(done.model) / "head.safetensors")
    texts = ["A joy from start to finish.", "Two hours I will never get back."]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    states = model(**tokens).last_hidden_state.detach().numpy()
    mask = tokens["attention_mask"].numpy()[:, :, None]
    features = (states * mask).sum(axis=1) / mask.sum(axis=1)
    logits = features @ head["weight"].T + head["bias"]
    for text, label in zip(texts, logits.argmax(axis=1), strict=True):
        print(f"{done.results['task']['classes'][label]:>10}  {text}")


if __name__ == "__main__":
    main()
