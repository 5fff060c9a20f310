"""Put a trained model into the package, with its card.

    python -m training.pocket.release RUN [--started-from TEXT]

Copies RUN/hf into `src/engrain/model/pocket`, RUN/curve.jsonl into `training/pocket/`, and writes
the card with tokens, digests and the last evaluation. Nothing in the card is typed by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

PACKAGE = Path("src/engrain/model/pocket")
CURVE = Path("training/pocket/curve.jsonl")
LARGEST = 40_000_000

CARD = """# The pocket model

{parameters:,} parameters, Llama architecture, ChatML, English. It is made to be taught: it reads
what it is told a few turns above, writes questions about it, says that it does not know what it was
not told, and learns lessons on two CPU cores. It knows next to nothing of the world, is not aligned
for safety, and is no use as an assistant.

| | |
|---|---|
| trained | {tokens:,} tokens by `training/pocket/train.py` on two CPU cores, {hours:.1f} hours |
| started from | {started} |
| data, licences, recipe | `training/pocket/README.md` |
| curve | `training/pocket/curve.jsonl` |
| weights | sha256 `{weights}` |
| tokenizer | sha256 `{tokenizer}` |

Last evaluation in training, 60 questions each on six facts told in the same conversation:

| | relations of training | held-out relations, wordings, values |
|---|---|---|
{rows}

The held-out relations, owners, wordings and values (`src/engrain/data/facts_heldout.py`; values by
a hash) are never used by the generator that trained it, and the product's exams use only those.
{caveat}
The held-out exam was read while the generator was developed, so its figures are those of a
development set.
"""


def main() -> None:
    """Copy the model and write its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--started-from", default="random weights")
    parser.add_argument("--caveat", default="")
    arguments = parser.parse_args()
    source = (arguments.run / "hf").resolve()
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, PACKAGE / file.name)
    shutil.copyfile(arguments.run / "curve.jsonl", CURVE)
    lines = [json.loads(line) for line in CURVE.read_text(encoding="utf-8").splitlines()]
    last = lines[-1]
    kinds = ("recall", "abstention", "correction")
    rows = "\n".join(
        f"| {kind} | {last[f'train/{kind}']:.0%} | {last[f'heldout/{kind}']:.0%} |"
        for kind in kinds
    )
    size = (PACKAGE / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{size} bytes of weights; the package takes {LARGEST}")
    header = int.from_bytes((PACKAGE / "model.safetensors").read_bytes()[:8], "little")
    card = CARD.format(
        parameters=(size - 8 - header) // 2,
        tokens=last["tokens"],
        hours=last["hours"],
        started=arguments.started_from,
        weights=_digest("model.safetensors"),
        tokenizer=_digest("tokenizer.json"),
        rows=rows,
        caveat=arguments.caveat,
    )
    (PACKAGE / "README.md").write_text(card, encoding="utf-8")
    print(card)


def _digest(name: str) -> str:
    return hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
