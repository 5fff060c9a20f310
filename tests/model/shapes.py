"""The shapes of models that the engine and the loader are tested on."""

import random
from typing import Any

from engrain.data.messages import Message

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-tied": ("llama", {}),
    "llama-untied": ("llama", {"tied": False, "kv_heads": 4}),
    "llama-one-kv-head": ("llama", {"kv_heads": 1}),
    "qwen2-sliding": ("qwen2", {"sliding_window": 8}),
    "qwen3-tied": ("qwen3", {}),
    "qwen3-untied-sliding": ("qwen3", {"tied": False, "sliding_window": 8}),
    "gemma2-eager": ("gemma2", {}),
    "gemma3-sliding": ("gemma3", {"sliding_window": 8}),
    "gemma4-shared-kv": ("gemma4", {}),
    "mistral-sliding": ("mistral", {"sliding_window": 12}),
    "phi3-joined-projections": ("phi3", {}),
    "qwen3-experts": ("qwen3_moe", {}),
    "gpt2": ("gpt2", {"tied": True}),
    "lfm2-convolutions": ("lfm2", {}),
}


def random_prompts(count: int, *, seed: int = 0, begin: str = "") -> list[list[Message]]:
    """Prompts of very different length."""
    chance = random.Random(seed)

    def text() -> str:
        return "".join(chance.choice("abcdefghij klmno") for _ in range(chance.randint(1, 60)))

    return [[Message("user", begin + text())] for _ in range(count)]
