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

from training.pocket.evaluate import compute_type, evaluate

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

Right answers of these weights about six facts told in the same conversation, {questions} questions
a column, and as many requests of self-study: lists of what a message tells, and verdicts on what is
so (`training/pocket/evaluate.py`):

| | relations of training | development set | held-out relations, owners, wordings |
|---|---|---|---|
{rows}

The held-out relations, owners and wordings (`src/engrain/data/facts_heldout.py`) and half of all
values (by a hash) are never used by the generator that trained it, and the product's exams use only
those. They were written by someone who had not read the training tables, and were asked only after
training had ended; no wording is the same, but some are near ("Going by what I said, ...?" is
trained on, "Going by what I said earlier, ...?" is asked). The development set is also outside of
training, but was read while the generator was developed.
{caveat}
"""
HALVES = ("train", "development", "heldout")
KINDS = ("recall", "abstention", "correction", "claims", "nothing", "so", "not so")


def evaluate_folder(folder: Path, questions: int) -> dict[str, float]:
    """Right answers by half and kind, of a model folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=compute_type()).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return evaluate(model, tokenizer, questions, seed=2026, halves=HALVES)


def main() -> None:
    """Copy the model and write its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--started-from", default="random weights")
    parser.add_argument("--caveat", default="")
    parser.add_argument("--append", action="store_true", help="keep the curve that is there")
    parser.add_argument("--questions", type=int, default=300)
    arguments = parser.parse_args()
    source = (arguments.run / "hf").resolve()
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, PACKAGE / file.name)
    curve = (arguments.run / "curve.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in curve.splitlines()]
    before = CURVE.read_text(encoding="utf-8") if arguments.append else ""
    CURVE.write_text(before + curve, encoding="utf-8")
    last = lines[-1]
    found = evaluate_folder(PACKAGE, arguments.questions)
    CURVE.open("a", encoding="utf-8").write(json.dumps({"released": found}) + "\n")
    rows = "\n".join(
        f"| {kind} | " + " | ".join(f"{found[f'{half}/{kind}']:.0%}" for half in HALVES) + " |"
        for kind in KINDS
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
        questions=arguments.questions,
        caveat=arguments.caveat,
    )
    (PACKAGE / "README.md").write_text(card, encoding="utf-8")
    print(card)


def _digest(name: str) -> str:
    return hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
