"""Our side of a training step: the project's own learner, run as any lesson runs.

Run by :mod:`benchmarks.measure`, one contestant a process. Steps are timed from one call of
``on_step`` to the next; the first also holds what a run does once (attaching, the context's cache).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Meter, serve, touch
from benchmarks.shapes import lesson

if TYPE_CHECKING:
    from engrain.learn.recipe import Recipe

CACHED, RECOMPUTED = "cached", "recomputed"
PREFILLS = 3


def contestants(
    dtype: str, optimization: str, settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Our contestants by name.

    ``ours-cached`` computes the context's cache once and keeps it, ``ours-recomputed`` makes it at
    each step, ``ours-cached-all`` trains the embeddings, too, ``ours-cached-adamw`` takes AdamW's
    step, ``ours-cached-little`` keeps no activations inside layers.
    """
    released = {"gradient_release": True, "optimization.clip": 0.0, **settings}
    common = {
        "dtype": dtype,
        "optimization": optimization,
        "settings": released,
        "context_cache": CACHED,
        "embeddings": False,
    }
    return {
        "ours-cached": common,
        "ours-recomputed": {**common, "context_cache": RECOMPUTED},
        "ours-cached-all": {**common, "embeddings": True},
        "ours-cached-adamw": {**common, "optimization": "adamw"},
        "ours-cached-little": {**common, "settings": {**released, "recompute": True}},
    }


def recipe(request: Mapping[str, Any]) -> Recipe:
    """Full weights, the context frozen, one text a step.

    Raises:
        UnknownNameError: this version of the learner has no such technique or setting.
    """
    from engrain.learn.recipe import Choice, Recipe

    cached = request["context_cache"] == CACHED
    representation = Choice("context_frozen", {"live": 2, "refresh": 0 if cached else 1})
    chosen = Recipe(
        "step",
        architecture=Choice("full", {"embeddings": request["embeddings"]}),
        optimization=Choice(request["optimization"]),
        representation=representation,
        batch_size=1,
        min_steps=request["steps"],
        max_steps=request["steps"],
    )
    return chosen.with_settings(request["settings"])


def work(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Load, time the prefill that serving does, learn for some steps, tell what it took."""
    from engrain.errors import UnknownNameError
    from engrain.learn.learner import Learner
    from engrain.model.loading import load_model

    try:
        chosen = recipe(request)
    except UnknownNameError as error:
        return {"unavailable": error.message}
    context = len(request["ids"]) - request["targets"]
    meter.importing_done()
    loaded = load_model(request["model"], dtype=request["dtype"], local_only=True)
    meter.loaded(touch(loaded.model))
    ends: list[float] = []

    def on_step(done: int, steps: int, loss: float) -> None:
        ends.append(time.perf_counter())
        meter.step(ends[-1] - (ends[-2] if done > 1 else began))

    began = time.perf_counter()
    result = Learner(chosen).run(
        loaded, lesson(context, request["targets"], seed=request["seed"]), on_step=on_step
    )
    return {
        "run_seconds": result.seconds,
        # Also what follows the last step: the adapter of a whole model is as large as the model.
        "run_peak_bytes": max(result.peak_memory_bytes, *meter.peaks),
        "trained": sum(tensor.numel() for tensor in result.adapter.tensors.values()),
        "losses": list(result.losses),
        "prefill_seconds": prefill_seconds(loaded, request["ids"][: context - 1]),
        "recipe": chosen.to_dict(),
    }


def prefill_seconds(loaded: Any, ids: list[int]) -> float:
    """Seconds in which the served model makes the context's cache, as answering does."""
    import torch
    from transformers import DynamicCache

    from engrain.learn.compute import autocast
    from engrain.model.cache import cache_argument

    taken = []
    for _ in range(PREFILLS):
        began = time.perf_counter()
        with torch.no_grad(), autocast():
            loaded.model(
                input_ids=torch.tensor([ids]),
                **cache_argument(loaded.model, DynamicCache(config=loaded.model.config)),
                use_cache=True,
                logits_to_keep=1,
            )
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    raise SystemExit(serve(work))
