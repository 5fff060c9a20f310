"""Build the general texts that the KL anchor looks at, from tier-A data only.

    python -m training.anchors.build --data ../shared/data

Dialogues of Synthetic-Persona-Chat (validation split, CC BY 4.0); the panel is built from the test
split, so no text is in both.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path

OUT = Path("src/engrain/data/general/anchors.json.gz")
SOURCE = {
    "name": "Synthetic-Persona-Chat, validation split",
    "address": "https://github.com/google-research-datasets/Synthetic-Persona-Chat",
    "licence": "CC BY 4.0",
    "changes": "dialogues cut to their first turns, roles renamed to user and assistant",
}


def main() -> None:
    """Write the package's anchor file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=240)
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
    record = {"version": "1", "source": SOURCE, "texts": texts}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    # No time stamp in the header, so that equal texts give equal files.
    arguments.out.write_bytes(gzip.compress(raw, 9, mtime=0))
    print(f"{len(texts)} texts, {arguments.out.stat().st_size} bytes in {arguments.out}")


if __name__ == "__main__":
    main()
