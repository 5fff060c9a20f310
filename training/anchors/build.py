"""Build the general texts that the KL anchor looks at, from tier-A data only.

    python -m training.anchors.build --data ../shared/data

Half are dialogues of Synthetic-Persona-Chat (validation split, CC BY 4.0); the panel is built from
the test split, so no text is in both. Half are made by the generator of the pocket model, from its
training relations: someone tells things and asks for them, or asks for what was never told. What a
closed-book lesson damages first is just that: reading the context, and saying "I don't know".
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path

from training.pocket.generator import generate

OUT = Path("src/engrain/data/general/anchors.json.gz")
SOURCE = {
    "name": "Synthetic-Persona-Chat, validation split",
    "address": "https://github.com/google-research-datasets/Synthetic-Persona-Chat",
    "licence": "CC BY 4.0",
    "changes": "dialogues cut to their first turns, roles renamed to user and assistant",
}
MADE = {
    "name": "dialogues of training/pocket/generator.py, training relations",
    "address": "this repository",
    "licence": "Apache-2.0",
    "changes": "none",
}
KINDS = ("tell", "system", "closed", "tell", "document", "closed")
MADE_TOKENS = 130


def made(count: int) -> list[list[dict[str, str]]]:
    """Short dialogues that tell and ask."""
    rng = random.Random(20261123)
    texts = []
    for number in range(count):
        messages = generate(rng, MADE_TOKENS, KINDS[number % len(KINDS)])
        texts.append([{"role": m["role"], "content": m["content"]} for m in messages])
    return texts


def main() -> None:
    """Write the package's anchor file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=120, help="texts of each source")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    path = arguments.data / "pretrain" / "synthetic_persona_chat.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["messages"] for line in file]
    rng = random.Random(20261122)
    rng.shuffle(rows)
    texts = []
    for messages in rows:
        start = 2 * rng.randrange(max(1, (len(messages) - 8) // 2))
        piece = [m for m in messages[start : start + 6] if m["role"] in ("user", "assistant")]
        while piece and piece[0]["role"] != "user":
            piece = piece[1:]
        if len(piece) % 2:
            piece = piece[:-1]
        if len(piece) >= 4 and sum(len(m["content"]) for m in piece) < 700:
            texts.append([{"role": m["role"], "content": m["content"]} for m in piece])
    texts = texts[: arguments.count]
    texts = [text for pair in zip(texts, made(len(texts)), strict=True) for text in pair]
    record = {"version": "2", "sources": [SOURCE, MADE], "texts": texts}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    # No time stamp in the header, so that equal texts give equal files.
    arguments.out.write_bytes(gzip.compress(raw, 9, mtime=0))
    print(f"{len(texts)} texts, {arguments.out.stat().st_size} bytes in {arguments.out}")


if __name__ == "__main__":
    main()
