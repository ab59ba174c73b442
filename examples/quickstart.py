"""From a base and somebody else's fine-tuning of it to one model that holds up on a new source.

Run it with ``python examples/quickstart.py`` (about four minutes on two cores; the first time it
downloads 170 MB of weights and texts). Everything here is the public API; read it from top to
bottom.
"""

import stockpot
from stockpot.demo import fetch


def main() -> None:
    # 1. What exists: a pretrained base, a fine-tuning of it from the wild, texts from four sources.
    assets = fetch(["minilm", "sre", "sentiment"])

    # 2. Do the two checkpoints belong together? Averaging strangers gives noise.
    verdict = stockpot.inspect([assets["minilm"], assets["sre"]])
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
        "held_out": ["editorials"],
        "backbone": {
            "kind": "transformers",
            "name": str(assets["minilm"]),
            "max_length": 32,
            "freeze_below": "encoder.layer.5",
        },
        "auxiliaries": [{"name": "sre", "weights": str(assets["sre"])}],
        "training": {
            "steps": 80,
            "batch_size": 12,
            "learning_rate": [5e-4, 3e-4, 1e-3],
            "limit_per_domain": 1500,
        },
        "protocols": ["linear_probe", "single", "erm", "soup_uniform", "ratatouille_uniform"],
        "runs": 6,
    }
    done = stockpot.recycle(recipe, output="quickstart-output")

    # 4. What came out, with an interval for every number.
    for row in done.results.table:
        print(f"{row.label:<36} {row.mean:.1%}  ({row.low:.1%} to {row.high:.1%})")

    # 5. The model is a folder that predicts; its card says how other tools open it.
    texts = ["A joy from start to finish.", "Two hours I will never get back."]
    answers = stockpot.predict(done.model, texts)
    for text, label in zip(texts, answers.labels, strict=True):
        print(f"{label:>10}  {text}")


if __name__ == "__main__":
    main()
