"""Context-frozen training: keys and values of the context are constants.

Source: the reference system's notes, and the exact semantics that this project gives them
(docs/explanation/learning.md). For a context c_1..c_C and targets y_1..y_D:

    1. without gradients, keys and values of c_1..c_{C-1}: serving's own, or computed once;
    2. with gradients, run [c_C, y_1..y_{D-1}] at positions C-1..C+D-2 on them;
    3. loss = mean of -log p(y_t | ...).

Every weight still acts on the tokens of step 2, so queries, outputs, MLPs and the keys and
values of those tokens get gradients; none flows through activations of the context. This is not the
gradient of ordinary loss masking, which keeps the path through the context's keys and values.
c_C belongs to step 2, otherwise y_1 has no logit that can be trained.

Keys and values of a long context are those of the weights before the lesson, and so is what serving
holds of a conversation: nothing is computed or copied. While the lesson moves the weights they
grow stale by as much; ``refresh`` computes them anew every so many steps, with the weights as they
are then (1 is the definition at every step, and what shorter contexts get). Contexts below
``shortest`` tokens stay in the graph: where a question is short the way through its keys and values
costs little and teaches more; other talk before such a question (``talk`` tokens and more) is
kept as a long context is. What all of them begin with (a default system prompt of twenty tokens
before a question of twenty) is a context of its own, computed anew at each step.

Cost for N weights, C context and D target tokens: 6ND on a live context, 2NC + 6ND on one that is
computed, instead of 6N(C+D); activations of D tokens instead of C+D.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engrain.data.examples import Batch, Example
from engrain.data.lessons import TrainingText
from engrain.learn.compute import autocast, hidden_states, losses_of
from engrain.learn.heads import head_of
from engrain.learn.registry import register
from engrain.learn.representation.full_context import example_max, example_sum
from engrain.learn.technique import Representation, Setting, option
from engrain.model.cache import common_prefix
from engrain.model.context import Context, compute_context, objection


@dataclass(frozen=True)
class ContextFrozenConfig:
    """Hyper-parameters of context-frozen training."""

    shortest: int = option(2, "least tokens of a context that is frozen", low=2)
    live: int = option(256, "least tokens of a context that is kept from step to step", low=2)
    refresh: int = option(
        0,
        "steps after which kept contexts are computed anew; 0 keeps those before the lesson",
        low=0,
    )
    held: int = option(32768, "most tokens of contexts that are kept", low=0)
    talk: int = option(
        32, "least tokens of other talk before a question that are kept; 0 never", low=0
    )
    shared: int = option(
        16,
        "least tokens that short rows begin with alike and are computed once a step; 0 never",
        low=0,
    )


@register("context_frozen")
class ContextFrozen(Representation):
    """Train the continuation on keys and values of the context that carry no gradient."""

    Config = ContextFrozenConfig

    def prepare(self, setting: Setting) -> None:
        """Take the model, and the long contexts as serving has them.

        Raises:
            UnsupportedModelError: its attention can't read a frozen context, and there is one.
        """
        super().prepare(setting)
        head_of(setting.loaded.model)
        self._done = 0
        self._kept: dict[tuple[int, ...], Context] = {}
        source = setting.contexts or (lambda ids: compute_context(setting.loaded, [ids]))
        texts = [text for old in setting.earlier for text in old.texts]
        for prefix in self._long((*setting.lesson.texts, *texts)):
            self._kept[prefix] = source(prefix)

    def _long(self, texts: Iterable[TrainingText]) -> list[tuple[int, ...]]:
        """The contexts that are kept: long ones and other talk, as many as there is room for."""
        found: dict[tuple[int, ...], None] = {}
        room = self.config.held
        talks = bool(self.config.talk) and not objection(self.setting.loaded)
        for text in texts:
            # No token is shorter than a byte: most texts need not be encoded to be told short.
            short = sum(len(m.content.encode()) + 32 for m in text.messages) < self.config.live
            if short and (len(text.messages) <= 2 or not talks):
                continue
            example = self.setting.encode(text)
            prefix = example.ids[: example.context_length - 1]
            if len(prefix) < self.config.live:
                prefix = example.ids[: self._talk(example) if talks else 0]
            if prefix and len(prefix) <= room and prefix not in found:
                found[prefix] = None
                room -= len(prefix)
        return list(found)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over examples of the mean over their targets, context detached."""
        if self.config.refresh and self._done % self.config.refresh == 0:
            for prefix in self._kept:
                self._kept[prefix] = compute_context(self.setting.loaded, [prefix])
        self._done += 1
        self.hardest = torch.zeros(len(batch.weights))
        whole, computed = [], []
        shared: dict[tuple[int, ...], list[int]] = {}
        talked: dict[int, Context] = {}
        frozen = (batch.context_lengths - 1).clamp_min(0)
        for row, length in enumerate(frozen.tolist()):
            prefix = tuple(batch.input_ids[row, :length].tolist())
            talk = prefix[: int(batch.before[row])]
            if prefix in self._kept:
                shared.setdefault(prefix, []).append(row)
            elif talk in self._kept:
                talked[row], frozen[row] = self._kept[talk], len(talk)
            elif length and length + 1 >= self.config.shortest:
                computed.append(row)
            else:
                whole.append(row)
        parts = [self._on(batch, rows, frozen, self._kept[ids]) for ids, rows in shared.items()]
        if talked:
            parts.append(self._on(batch, list(talked), frozen, Context.of(list(talked.values()))))
        if computed:
            rows = [batch.input_ids[row, : frozen[row]].tolist() for row in computed]
            with autocast():
                context = compute_context(self.setting.loaded, rows)
            parts.append(self._on(batch, computed, frozen, context))
        if begun := self._shared(batch, whole):
            with autocast():
                context = compute_context(self.setting.loaded, [begun])
            starts = torch.full_like(frozen, len(begun))
            parts.append(self._on(batch, whole, starts, context))
        elif whole:
            part = batch.rows(whole, torch.zeros(len(whole), dtype=torch.long))
            with autocast():
                losses = losses_of(*hidden_states(self.setting.loaded, part))
            self.hardest[whole] = example_max(losses, part).to(self.hardest)
            parts.append(example_sum(losses, part))
        return sum(parts[1:], parts[0]) / batch.weights.sum()

    def _shared(self, batch: Batch, rows: Sequence[int]) -> list[int]:
        """The first tokens that rows have in common, such as a default system prompt, if many."""
        if len(rows) < 2 or not self.config.shared or objection(self.setting.loaded):
            return []
        lengths = batch.attention_mask.sum(-1).tolist()
        whole = [batch.input_ids[row, : lengths[row]].tolist() for row in rows]
        # The last token of each context has the logits of the first target.
        most = int(batch.context_lengths[list(rows)].min()) - 1
        count = min(common_prefix(whole), most)
        return whole[0][:count] if count >= self.config.shared else []

    def _on(self, batch: Batch, rows: Sequence[int], starts: Tensor, context: Context) -> Tensor:
        """The weighted sum of the losses of rows whose first tokens a context stands for."""
        loaded = self.setting.loaded
        part = batch.rows(rows, starts[rows])
        positions = starts[rows][:, None] + torch.arange(part.input_ids.shape[1])
        with autocast():
            losses = losses_of(*hidden_states(loaded, part, positions, context))
        self.hardest[list(rows)] = example_max(losses, part).to(self.hardest)
        return example_sum(losses, part)

    def computed(self, example: Example) -> float:
        """Tokens that it costs in a step: those of a frozen context are only read, or kept."""
        length = max(0, example.context_length - 1)
        if length >= self.config.live:
            return float(len(example) - length)
        if talk := self._talk(example):
            return float(len(example) - talk)
        return len(example) - (2 / 3 * length if length + 1 >= self.config.shortest else 0.0)

    def _talk(self, example: Example) -> int:
        """Tokens of other talk before the question of a short example that are kept."""
        short = example.context_length < self.config.shortest
        return example.before if short and 0 < self.config.talk <= example.before else 0

    def graph_tokens(self, tokens: int, targets: int, rows: int) -> int:
        """The targets and the last token of each context."""
        return min(tokens, targets + rows)

    def state_dict(self) -> dict[str, Tensor]:
        """How many losses were taken; kept contexts where they are not those before the lesson."""
        state = {"done": torch.tensor(self._done)}
        if self.config.refresh > 1:
            for number, context in enumerate(self._kept.values()):
                for layer, (key, value) in enumerate(
                    zip(context.keys, context.values, strict=True)
                ):
                    state[f"{number}.{layer}.key"] = key
                    state[f"{number}.{layer}.value"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self._done = int(state["done"])
        if self.config.refresh > 1:
            for number, prefix in enumerate(self._kept):
                layers = range(len(self._kept[prefix].keys))
                self._kept[prefix] = Context(
                    tuple(state[f"{number}.{layer}.key"] for layer in layers),
                    tuple(state[f"{number}.{layer}.value"] for layer in layers),
                    (len(prefix),),
                )
