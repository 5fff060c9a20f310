"""What the home's tests share: a tiny random model in a folder, small lessons, a small panel.

Imported by the benchmarks' own tests as well, and by workers outside of pytest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engrain.data.messages import Conversation, Message
from engrain.exam.panel import Panel, load_panel
from engrain.home import Home

SETTINGS: dict[str, Any] = {
    "model.threads": 1,
    "gate.enabled": False,
    "chat.max_new_tokens": 16,
    "learn.recipe": "naive-lora",
    "learn.settings.max_steps": 4,
    "learn.settings.min_steps": 2,
    "learn.settings.batch_size": 2,
}
"""A lesson that takes a fraction of a second and is always accepted."""

LIMITS = {
    "loss": 1,
    "capability": 1,
    "arithmetic": 1,
    "format": 1,
    "reading": 0,
    "locality": 1,
    "abstention": 2,
}


def small_panel() -> Panel:
    return load_panel().smaller(LIMITS)


def save_model(folder: Path, *, seed: int = 0) -> Path:
    from engrain.model.testing import save_tiny, tiny_model

    return save_tiny(tiny_model("llama", hidden=32, seed=seed), folder)


def with_small_panel(home: Home) -> Home:
    home.__dict__["panel"] = small_panel()
    return home


def new_home(folder: Path, model: Path, **overrides: Any) -> Home:
    given = {"model.source": str(model), **SETTINGS, **overrides}
    return with_small_panel(Home.create(folder, overrides=given))


def open_home(folder: Path, **overrides: Any) -> Home:
    return with_small_panel(Home.open(folder, overrides=overrides))


def examples_file(folder: Path, number: int, count: int = 6) -> Path:
    """A JSONL file of examples about one thing; the same number gives the same bytes."""
    records = [
        {"prompt": f"What is my thing {number} in wording {i}?", "completion": f"It is W{number}."}
        for i in range(count)
    ]
    path = folder / f"examples-{number}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def conversation(number: int) -> Conversation:
    return Conversation(
        (
            Message("user", f"My thing {number} is W{number}."),
            Message("assistant", "Noted."),
        )
    )


def folded(home: Home, lessons: Sequence[str]) -> str:
    """The digest of the base with the adapters of these lessons, derived from the blobs."""
    from engrain.learn.fold import fold
    from engrain.model.adapter import Adapter
    from engrain.model.digest import tensor_digest

    entries = {entry.id: entry for entry in home.lessons()}
    adapters = [Adapter.from_bytes(home.blobs.get(str(entries[name].adapter))) for name in lessons]
    return tensor_digest(fold(home.loaded.base_weights(), adapters))


def live_digest(home: Home) -> str:
    """The digest of the weights that answer a chat."""
    from engrain.model.digest import tensor_digest

    return tensor_digest(home.loaded.weights())
