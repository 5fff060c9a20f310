"""What earlier lessons cost: a lesson's step, the fold and a served token on top of many adapters.

Run by :mod:`benchmarks.measure` for :mod:`benchmarks.scaling`, one number of adapters a process.
The adapters are LoRAs of the default recipe with random content, each of a lesson of its own, so
that replay and absence have as much to do as after that many lessons.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Meter, serve, touch

if TYPE_CHECKING:
    from engrain.data.lessons import Lesson
    from engrain.model.adapter import Adapter

TEXTS = 12
"""New texts of a lesson, and as many of contrast."""
SERVED_TOKENS = 32
SMALL = 1e-3
"""Size of the random changes: they must cost what real ones do, and leave the model finite."""


def made_lesson(number: int) -> Lesson:
    """A small lesson that shares nothing with the others."""
    from engrain.data.lessons import Lesson, TrainingText, chat

    def text(kind: Any, i: int) -> TrainingText:
        talk = chat(f"What is my boat {number}-{i}?", f"Your boat {number}-{i} is red.")
        return TrainingText(talk, kind, f"boat {number}-{i}: red")

    texts = [text(kind, i) for kind in ("fact", "contrast") for i in range(TEXTS)]
    return Lesson(f"lesson-{number}", "", tuple(texts))


def copies(adapter: Adapter, count: int) -> list[Adapter]:
    """Adapters of the same shape with random content."""
    import torch

    made = []
    for number in range(count):
        source = torch.Generator().manual_seed(number)
        tensors = {
            name: SMALL * torch.randn(tensor.shape, generator=source)
            for name, tensor in adapter.tensors.items()
        }
        made.append(replace(adapter, tensors=tensors))
    return made


def work(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Fold ``count`` adapters, serve a few tokens, learn one more lesson for a few steps."""
    from engrain.data.general import anchors
    from engrain.learn.fold import fold
    from engrain.learn.learner import Learner
    from engrain.learn.recipe import named
    from engrain.model.engine import Engine
    from engrain.model.loading import load_model

    meter.importing_done()
    loaded = load_model(request["model"], dtype=request["dtype"], local_only=True)
    # A random model may end an answer at any token; each answer should be as long as asked for.
    loaded.stop_ids = ()
    meter.loaded(touch(loaded.model))
    steps = request["steps"]
    recipe = replace(named("default"), min_steps=steps, max_steps=steps)
    one = Learner(replace(recipe, min_steps=1, max_steps=1)).run(
        loaded, made_lesson(-1), anchors=anchors()
    )
    stored = copies(one.adapter, request["count"])
    folding = _median(lambda: fold(loaded.base_weights(), stored), request["times"])
    weights = fold(loaded.base_weights(), stored)
    loaded.set_weights(weights)
    del weights

    engine = Engine(loaded)
    prompt = [made_lesson(0).texts[0].messages[:1]]

    def answer(tokens: int) -> float:
        return _median(lambda: engine.generate(prompt, max_new_tokens=tokens), request["times"])

    token = (answer(1 + SERVED_TOKENS) - answer(1)) / SERVED_TOKENS
    earlier = [made_lesson(number) for number in range(request["count"])]
    ends: list[float] = []

    def on_step(done: int, total: int, loss: float) -> None:
        ends.append(time.perf_counter())
        meter.step(ends[-1] - (ends[-2] if done > 1 else began))

    began = time.perf_counter()
    Learner(recipe).run(
        loaded,
        made_lesson(request["count"]),
        earlier=earlier,
        adapters=stored,
        anchors=anchors(),
        on_step=on_step,
    )
    return {
        "count": request["count"],
        "fold_seconds": folding,
        "served_token_seconds": token,
        # Absence takes an adapter out in some steps only, so the mean is what a lesson pays.
        "mean_step_seconds": statistics.fmean(meter.seconds[1:]),
        "adapter_bytes": one.adapter.nbytes,
    }


def _median(call: Any, times: int) -> float:
    taken: Sequence[float] = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken = [*taken, time.perf_counter() - began]
    return statistics.median(taken)


if __name__ == "__main__":
    raise SystemExit(serve(work))
