"""Write lesson zero of a base as the file that the package ships.

    python -m training.manners.release --run runs/manners --model qwen2.5-coder-0.5b

The adapter is stored in bf16; with the tensors goes the card: data, recipe, curve, digests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch

from engrain.learn.fold import fold_into
from engrain.lesson import zero
from engrain.model.adapter import Adapter
from engrain.model.engine import Engine
from engrain.model.loading import load_model
from engrain.study.trial import leaning

FOLDER = Path("src/engrain/lesson/manners")


def main() -> None:
    """Write the file and say where and how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", type=Path, help="by default the one of the run")
    parser.add_argument("--steps", type=int, help="the steps of a checkpoint's adapter")
    parser.add_argument("--before", type=Path, help="the run that this one went on from")
    parser.add_argument("--before-steps", type=int, help="its steps at that checkpoint")
    parser.add_argument("--view", type=Path, help="JSON of benchmarks.everyday view with it")
    options = parser.parse_args()
    loaded = load_model(options.model, dtype="auto")
    raw = (options.adapter or options.run / "adapter.safetensors").read_bytes()
    trained = Adapter.from_bytes(raw)
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in trained.tensors.items()}
    adapter = Adapter(trained.architecture, halves, trained.settings).to_bytes()
    card = json.loads((options.run / "card.json").read_text())
    if options.steps:
        # The adapter of a checkpoint: counts are of the steps that it has seen.
        lines = (options.run / "curve.jsonl").read_text().splitlines()[: options.steps]
        seen = len(lines) / card["steps"]
        card |= {key: round(seen * card[key]) for key in ("texts", "tokens", "computed", "learned")}
        card |= {"steps": len(lines), "loss": [json.loads(line)["loss"] for line in lines]}
    recipe = card.pop("recipe")
    if options.before:
        lines = (options.before / "curve.jsonl").read_text().splitlines()
        taken = [json.loads(line) for line in lines][: options.before_steps]
        card["before"] = {"steps": len(taken), "loss": [row["loss"] for row in taken]}
    if options.view:
        measured = json.loads(options.view.read_text())
        card["measured"] = {"everyday_dev in view": measured["figures"]}
    # As it is shipped, in the type in which it is used.
    fold_into(loaded, Adapter.from_bytes(adapter))
    card["belief"] = round(leaning(Engine(loaded)), 3)
    card |= {
        "model": options.model,
        "trained_adapter": hashlib.sha256(raw).hexdigest(),
        "data": "training/manners/README.md",
        "licence": "Apache-2.0",
    }
    lesson = zero.Portable(loaded.base_digest, recipe, card, adapter)
    file = zero.ship(lesson, FOLDER)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, base {loaded.base_digest}")


if __name__ == "__main__":
    main()
