"""The memory of a training run, told before it begins, part by part.

A formula, not a measurement: a run that would not fit must not be tried. Everything that depends on
a technique is asked of its object (:mod:`engrain.learn.technique`). For T tokens whose activations
are kept, D targets, and n trained numbers::

    adapter       what the architecture adds beside the weights
    optimizer     state_bytes of the optimization and its rules: 8 n for AdamW
    gradients     4 n; with gradient release those of one layer. Rules may let fewer move at once
    activations   T * layers above the lowest trained * bytes that a layer keeps of a token
    logits        Representation.logits_bytes: chunks of the vocabulary, and all where they are few
    anchors       Regularization.cost: what is kept of the model before the lesson
    cache         keys and values of a frozen context
    weights       copies in the compute type, and without an earlier lesson (absence)

What a layer keeps of a token depends on every operation in it, so it is counted on a forward of a
few tokens and not derived from the shapes of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from engrain.data.examples import Example
from engrain.learn.compact import compacted
from engrain.learn.compute import SHORT, autocast, has_bf16
from engrain.learn.technique import (
    Architecture,
    Optimization,
    Regularization,
    Replay,
    Representation,
    Rule,
    Setting,
)
from engrain.model.context import attending, objection

if TYPE_CHECKING:
    from engrain.learn.recipe import Recipe
    from engrain.model.loading import LoadedModel, Outline

PROBED = 16
"""Tokens on which is counted what a layer keeps."""
PASSING = 1.6
"""What backward holds for a moment, and what the allocator can't reuse, on top of activations."""


@dataclass(frozen=True)
class Step:
    """The tokens of a training step: rows, tokens of all rows as computed, their targets."""

    rows: int
    tokens: int
    targets: int

    @classmethod
    def of(cls, examples: Sequence[Example], *, packs: bool) -> Step:
        """The step of a batch; without packing rows are padded to the longest."""
        longest = max(map(len, examples), default=0)
        targets = sum(sum(example.loss_mask) for example in examples)
        packed = packs and longest <= SHORT
        tokens = sum(map(len, examples)) if packed else len(examples) * longest
        return cls(len(examples), tokens, targets)

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return self.tokens // max(1, self.rows)


def training_bytes(recipe: Recipe, setting: Setting) -> dict[str, int]:
    """Bytes of each part of a run of the learner, beside the weights that are loaded.

    The setting's lesson and earlier lessons stand for those that will be learned: the longest texts
    that are to be expected.
    """
    loaded, profile = setting.loaded, setting.loaded.profile
    techniques = recipe.build()
    architecture = cast(Architecture, techniques["architecture"][0])
    optimization = cast(Optimization, techniques["optimization"][0])
    rules = cast(list[Rule], techniques["rules"])
    representation = cast(Representation, techniques["representation"][0])
    costs = [cast(Regularization, t).cost(setting) for t in techniques["regularization"]]
    step = _step(setting, cast(list[Replay], techniques["replay"]))
    trained = architecture.would_train(setting)
    numbers = sum(parameter.numel() for parameter in trained.values())
    moving: Mapping[str, nn.Parameter] = trained
    for rule in rules:
        moving = rule.at_once(moving, setting)
    kept = representation.graph_tokens(step.tokens, step.targets, step.rows)
    anchored = sum(cost.tokens for cost in costs)
    layers = _layers_above(loaded, trained)
    own = dict(loaded.model.named_parameters())
    within, between = layer_bytes(loaded, trained.keys() <= own.keys()), 4 * profile.hidden_size
    if recipe.recompute:
        # Only what goes from layer to layer is kept, and one layer is run again at a time.
        deep = layers * between + within
    else:
        deep = layers * within
    attention = _attention_numbers(loaded, step, layers) if kept == step.tokens else 0
    activations = PASSING * ((kept + anchored) * (deep + between) + 4 * attention)
    logits = representation.logits_bytes(step.targets, profile.vocab_size)
    logits += sum(12 * cost.targets * profile.vocab_size for cost in costs)
    parts = {
        "adapter": architecture.working_bytes(setting),
        "optimizer": optimization.state_bytes(moving)
        + sum(rule.state_bytes(trained) for rule in rules),
        "gradients": _gradient_bytes(recipe, profile.layers_path, moving),
        "activations": int(activations),
        "logits": logits,
        "anchors": sum(cost.kept_bytes for cost in costs),
        "cache": (step.tokens - kept) * cache_bytes(loaded),
        "weights": _copies(recipe, setting, numbers),
    }
    # The adapter is copied when the gradients and activations are gone.
    last, steps = architecture.storage_bytes(setting), ("gradients", "activations", "logits")
    missing = last - sum(parts[name] for name in steps)
    return {**parts, "adapter": parts["adapter"] + max(0, missing)}


def layer_bytes(loaded: LoadedModel, plain: bool = False) -> float:
    """Bytes that a layer keeps of a token for backward: autograd's own count on a few tokens.

    ``plain`` layers, which nothing was added to, may be single steps of the graph
    (:mod:`engrain.learn.compact`).
    """
    layers = len(loaded.profile.layers)
    parameters = list(loaded.model.parameters())
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trained = [parameter.requires_grad for parameter in parameters]
    ids = torch.zeros(1, PROBED, dtype=torch.long, device=loaded.device)
    # No hidden states are asked for: transformers hooks all layers for that and never lets go, and
    # a model with hooks is not decoded compactly.
    arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    ways = ExitStack()
    if plain and not objection(loaded):
        ways.enter_context(attending(loaded.model))
        ways.enter_context(compacted(loaded))
        arguments["position_ids"] = torch.arange(PROBED, device=loaded.device)[None]
    try:
        for parameter in parameters:
            parameter.requires_grad_(parameter.is_floating_point())
        with (
            ways,
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            autocast(),
        ):
            # The output is held until the count is done: what is freed gives its place to others.
            output = loaded.model(**arguments)
        del output
    finally:
        for parameter, before in zip(parameters, trained, strict=True):
            parameter.requires_grad_(before)
    return sum(kept.values()) / PROBED / max(1, layers)


def cache_bytes(loaded: LoadedModel | Outline) -> int:
    """Bytes of the keys and values of one token, in the type that the model computes in."""
    numbers = sum(
        2 * layer.kv_heads * layer.head_dim
        for layer in loaded.profile.layers
        if layer.kv_owner == layer.index
    )
    return numbers * loaded.dtype.itemsize


def linear_numbers(loaded: LoadedModel) -> int:
    """Numbers in the linear maps of the model, tied ones left out."""
    embedding = loaded.model.get_input_embeddings().weight
    return sum(
        module.weight.numel()
        for module in loaded.model.modules()
        if isinstance(module, nn.Linear) and module.weight is not embedding
    )


def _step(setting: Setting, replays: Sequence[Replay]) -> Step:
    """The longest batch that the setting's texts can make."""
    new = [setting.encode(text) for text in setting.lesson.balanced()]
    examples = sorted(new, key=len)[-setting.batch_size :]
    for replay in replays:
        replay.prepare(setting)
        examples += replay.draw(0)
    return Step.of(examples, packs=not objection(setting.loaded))


def _attention_numbers(loaded: LoadedModel, step: Step, layers: int) -> int:
    """Attention that is written out keeps its probabilities; other kinds do not."""
    fused = loaded.profile.attention_backend == "sdpa" or not objection(loaded)
    heads = max((layer.heads for layer in loaded.profile.layers), default=0)
    return 0 if fused else layers * heads * step.tokens * step.width


def _layers_above(loaded: LoadedModel, trained: Mapping[str, nn.Parameter]) -> int:
    """Layers from the lowest trained one up; below it nothing is kept."""
    pattern = re.compile(rf"(?:^|\.){re.escape(loaded.profile.layers_path)}\.(\d+)\.")
    numbers = [int(found[1]) for name in trained if (found := pattern.search(name))]
    whole = len(loaded.profile.layers)
    return whole - min(numbers) if len(numbers) == len(trained) and numbers else whole


def _gradient_bytes(recipe: Recipe, path: str, trained: Mapping[str, nn.Parameter]) -> int:
    if not recipe.gradient_release:
        return sum(4 * parameter.numel() for parameter in trained.values())
    layers: dict[str, int] = {}
    pattern = re.compile(rf"{re.escape(path)}\.\d+")
    for name, parameter in trained.items():
        found = pattern.search(name)
        place = found[0] if found else name
        layers[place] = layers.get(place, 0) + 4 * parameter.numel()
    return max(layers.values(), default=0)


def _copies(recipe: Recipe, setting: Setting, trained: int) -> int:
    """Copies of weights: in the compute type, and without the lesson that is missing in a step."""
    numbers = linear_numbers(setting.loaded)
    rounded = 2 * numbers + 2 * trained if has_bf16() else 0
    # The change of one lesson in fp32, which makes place for the weights without it.
    absent = 4 * numbers if recipe.absence and setting.earlier else 0
    return rounded + absent
