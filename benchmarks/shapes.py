"""Models of real shapes with random weights, and conversations of an exact length.

What a step or a token costs depends on a model's shape and not on what it knows, so no checkpoint
is fetched. Weights are stored in bf16, as published checkpoints mostly are, with a tokenizer of one
token a byte; whoever loads them chooses the type to compute in.

    python -m benchmarks.shapes smollm2-135m FOLDER
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engrain.data.lessons import Lesson
    from engrain.data.messages import Message

MAX_LENGTH = 16_384
"""Positions that every model takes: longer than all contexts that are measured."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, as its published configuration gives them."""

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool

    def products(self) -> list[tuple[int, int, int]]:
        """Linear maps of all layers as (outputs, inputs, how many); the head is not among them."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            (queries, self.hidden, self.layers),
            (keys, self.hidden, 2 * self.layers),
            (self.hidden, queries, self.layers),
            (self.intermediate, self.hidden, 2 * self.layers),
            (self.hidden, self.intermediate, self.layers),
        ]

    @property
    def linear(self) -> int:
        """Weights in the linear maps of all layers."""
        return sum(rows * columns * count for rows, columns, count in self.products())

    @property
    def head(self) -> int:
        """Weights of the output matrix, which the embedding shares where they are tied."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Weights in all matrices; the scales of norms, under a thousandth, are left out."""
        return self.linear + self.head * (1 if self.tied else 2)

    def config(self) -> Any:
        """The configuration, of transformers' own class."""
        import transformers

        kinds: dict[str, Any] = {
            "llama": transformers.LlamaConfig,
            "qwen3": transformers.Qwen3Config,
        }
        return kinds[self.kind](
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=self.tied,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=3,
        )


SHAPES = {
    "tiny": Shape("llama", 64, 2, 4, 2, 16, 128, 264, True),
    "pocket": Shape("llama", 256, 12, 4, 4, 64, 704, 8192, True),
    "smollm2-6-layers": Shape("llama", 576, 6, 9, 3, 64, 1536, 264, True),
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 64, 1536, 49152, True),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 128, 3072, 151936, True),
    "tinyllama-1.1b": Shape("llama", 2048, 22, 32, 4, 64, 5632, 32000, False),
}
"""Sizes from the published config.json of each model; ``tiny`` is for smoke tests.

``smollm2-6-layers`` has layers of the real size and few of them: 21 million weights, no vocabulary.
"""
CUT = ("tiny", "smollm2-6-layers")
"""Those that are no whole model."""


def write_model(name: str, folder: Path, *, dtype: str = "bfloat16", seed: int = 0) -> Path:
    """Write a randomly initialised model of a shape, with its tokenizer; the same seed, the same.

    Weights written in ``float32`` are rounded to bf16 all the same, as those of a checkpoint.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from engrain.model.testing import byte_tokenizer

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(SHAPES[name].config(), dtype=torch.bfloat16)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def conversation(context: int, targets: int, *, seed: int = 0) -> tuple[Message, ...]:
    """A conversation whose prompt and whose last answer have an exact number of tokens.

    Counted with the byte tokenizer and ChatML, the end of the answer included. Lessons of one
    ``seed`` share their context.
    """
    from engrain.data.messages import Message

    chance = random.Random(seed)
    # ChatML adds four tokens and the role to a message, and begins the answer.
    left = context - len("assistant") - 2
    messages: list[Message] = []
    roles = _alternating()
    while left > 0:
        role = next(roles)
        room = left - 4 - len(role)
        longest = 180 if room > 420 and role == "user" else 160
        # The last message is the user's and takes what is left.
        last = role == "user" and room <= 420
        messages.append(Message(role, _words(chance, room if last else longest)))
        left -= len(messages[-1].content) + 4 + len(role)
    return (*messages, Message("assistant", _words(chance, targets - 1)))


def lesson(context: int, targets: int, *, seed: int = 0) -> Lesson:
    """One text to learn: the last answer of a conversation."""
    from engrain.data.lessons import Lesson, TrainingText

    text = TrainingText(conversation(context, targets, seed=seed), "explicit", "step")
    return Lesson("step", "One answer at the end of a long conversation", (text,))


def token_ids(context: int, targets: int, *, seed: int = 0) -> list[int]:
    """The same conversation as token ids ``(context + targets,)``; the last ones are learned.

    Raises:
        ValueError: too short for a conversation.
    """
    from engrain.data.examples import encode
    from engrain.model.testing import byte_tokenizer

    text = lesson(context, targets, seed=seed).texts[0]
    example = encode(byte_tokenizer(), text, max_length=MAX_LENGTH)
    if example.context_length != context or len(example) != context + targets:
        raise ValueError(f"a context of {context} tokens and {targets} targets can't be made")
    return list(example.ids)


def _alternating() -> Iterator[str]:
    while True:
        yield "user"
        yield "assistant"


def _words(chance: random.Random, length: int) -> str:
    """Made-up words, ``length`` characters long."""
    syllables = "ba de fi go lu ma ne pi ro su ta vi".split()
    text = ""
    while len(text) < length:
        text += "".join(chance.choices(syllables, k=chance.randint(1, 3))) + " "
    text = text[:length]
    return text[:-1] + "." if text.endswith(" ") else text


def main() -> int:
    """Write one model; a process of its own, so that its memory is given back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_model(args.shape, args.folder, dtype=args.dtype, seed=args.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
