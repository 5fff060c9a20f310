"""The pocket model's tokenizer: byte-level BPE with the marks of ChatML.

Run: python -m training.pocket.tokenizer --data DATA --out FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.pocket.store import CHAT_TEMPLATE

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")  # ids 0 to 3


def train_tokenizer(texts: Iterable[str], out: Path, size: int = 8192) -> Tokenizer:
    """Learn the merges and write a folder that transformers' AutoTokenizer loads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[3],
        "extra_special_tokens": [SPECIAL[1]],
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return tokenizer


def corpus_texts(data: Path, generator: str, dialogues: int, seed: int) -> Iterator[str]:
    """Everything in the data folder, and so many generated dialogues."""
    for path in sorted(data.glob("*.jsonl*")):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as f:
            for line in f:
                row = json.loads(line)
                yield (
                    row["text"]
                    if "text" in row
                    else "\n".join(m["content"] for m in row["messages"])
                )
    rng = random.Random(seed)
    generate = importlib.import_module(generator).generate
    for _ in range(dialogues):
        yield "\n".join(m["content"] for m in generate(rng, 512))


def main() -> None:
    p = argparse.ArgumentParser(description="train the tokenizer")
    p.add_argument("--data", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--generator", default="training.pocket.generator")
    p.add_argument("--dialogues", type=int, default=10_000)
    p.add_argument("--size", type=int, default=8192)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    texts = corpus_texts(Path(args.data), args.generator, args.dialogues, args.seed)
    train_tokenizer(texts, Path(args.out), args.size)


if __name__ == "__main__":
    main()
