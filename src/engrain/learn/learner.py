"""The learner: the one loop that runs a recipe over a lesson."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import torch

from engrain.data.examples import Batch, Example
from engrain.data.lessons import Lesson, TrainingText, canonical_digest
from engrain.errors import DivergedError, NothingToLearnError
from engrain.learn.absence import Absence
from engrain.learn.checkpoint import Checkpoint, Stateful
from engrain.learn.compact import compacted
from engrain.learn.compute import frozen_in_compute_type, recomputing
from engrain.learn.heads import head_of
from engrain.learn.mastery import Mastery
from engrain.learn.memory import peak_memory_bytes, reset_peak
from engrain.learn.recipe import Recipe
from engrain.learn.replay.reservoir import current, walk
from engrain.learn.technique import (
    Architecture,
    ContextSource,
    Optimization,
    Regularization,
    Replay,
    Representation,
    Rule,
    Setting,
)
from engrain.learn.turns import after_talk
from engrain.learn.update import GradientRelease, follow
from engrain.model.adapter import Adapter
from engrain.model.context import objection
from engrain.model.loading import LoadedModel

OnStep = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, loss)."""


@dataclass(frozen=True)
class Further:
    """What a second round begins with: the adapter of the first, and what it did not teach.

    ``questions`` are those of the lesson's texts that are trained further. The others count as
    known: they fill what is left of a batch, so that they are kept.
    """

    adapter: Adapter
    questions: frozenset[str]


@dataclass(frozen=True)
class LearnResult:
    """What a run of the learner gives back.

    ``state_bytes`` is what optimization and rules held at the end, by technique and tensor.
    """

    adapter: Adapter
    losses: tuple[float, ...] = field(repr=False)
    steps: int = 0
    resumed_from: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    state_bytes: Mapping[str, int] = field(default_factory=dict, repr=False)


class Learner:
    """Runs a recipe over a lesson and gives the adapter that it learned.

    The model's weights are the same to the bit before and after: the change lives in the adapter.

    Example:
        >>> result = Learner(named("default")).run(loaded, lesson)         # doctest: +SKIP
        >>> result.adapter.architecture                                    # doctest: +SKIP
        'lora'
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def run(
        self,
        loaded: LoadedModel,
        lesson: Lesson,
        *,
        earlier: Sequence[Lesson] = (),
        adapters: Sequence[Adapter] = (),
        anchors: Sequence[TrainingText] = (),
        weak: Sequence[tuple[str, TrainingText]] = (),
        further: Further | None = None,
        contexts: ContextSource | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        checkpoint: Path | None = None,
        save_every: int = 20,
    ) -> LearnResult:
        """Learn one lesson on the model as it is.

        ``earlier`` are the lessons in its weights, ``adapters`` what was learned from each; a
        recipe with ``absence`` needs both. ``contexts`` lends keys and values that serving has
        computed already. ``weak`` are texts of earlier lessons, each with its lesson's id, that are
        trained as if they were new. ``further`` makes it a second round over the same lesson.

        ``checkpoint`` is a file from which an interrupted run continues, to the bit, and to which
        this run saves every ``save_every`` steps.

        Raises:
            NothingToLearnError: the lesson holds no text that carries something new.
            ConfigError: the recipe's parts don't go together.
            DivergedError: the loss is not finite.
            ResumeError: the checkpoint is of another lesson, recipe, seed, model or other adapters.
        """
        started = time.perf_counter()
        reset_peak()
        if self.recipe.restart:
            lesson, earlier, adapters = joined(lesson, earlier), (), ()
        if not lesson.facts():
            raise NothingToLearnError(
                "The lesson holds nothing to learn.",
                remedy="See `engrain learn --dry-run` for what was dropped and why.",
            )
        lesson = after_talk(lesson, anchors, self.recipe.after_talk, seed)
        setting = Setting(
            loaded,
            lesson,
            earlier,
            anchors,
            seed,
            steps=self.recipe.steps_for(len(lesson.balanced()) + len(weak)),
            batch_size=self.recipe.batch_size,
            contexts=contexts,
        )
        techniques = self.recipe.build()
        architecture = cast(Architecture, techniques["architecture"][0])
        optimization = cast(Optimization, techniques["optimization"][0])
        representation = cast(Representation, techniques["representation"][0])
        regularizations = cast(list[Regularization], techniques["regularization"])
        replays = cast(list[Replay], techniques["replay"])
        rules = cast(list[Rule], techniques["rules"])

        loaded.model.eval()
        # What the model's attention and output layer can do is measured before it is extended.
        objection(loaded), head_of(loaded.model)
        looking: list[Regularization | Replay | Representation]
        looking = [*regularizations, *replays, representation]
        for technique in looking:
            technique.prepare(setting)
        # What is trained until it is known needs no wordings repeated.
        texts = lesson.facts() if self.recipe.mastery else lesson.balanced()
        new = [setting.encode(text) for text in texts]
        new += [setting.encode(text, origin) for origin, text in weak]
        mastery = None
        if self.recipe.mastery:
            known = [further is not None and t.question not in further.questions for t in texts]
            known += [further is not None for _ in weak]
            groups = [text.group for text in (*texts, *(text for _, text in weak))]
            mastery = Mastery(new, setting, known, groups)
        absence = Absence(setting, adapters, self.recipe.absence)
        absence.refuse_what_holds_earlier(regularizations)
        architecture.attach(setting)
        try:
            if further:
                architecture.go_on(further.adapter)
            optimization.prepare(architecture.parameters(), setting)
            follow(optimization, rules, setting)
            digest = run_digest(self.recipe, setting, adapters, weak, further)
            parts: dict[str, Sequence[Stateful]] = {**techniques}
            parts |= {"mastery": [mastery]} if mastery else {}
            saved = Checkpoint(checkpoint, digest, parts)
            losses = saved.load()
            first = len(losses)
            with ExitStack() as ways:
                ways.enter_context(frozen_in_compute_type(loaded.model))
                release = None
                if self.recipe.gradient_release:
                    release = GradientRelease(optimization, architecture.parameters())
                    absence.refuse_steps_inside(architecture.parameters())
                    ways.enter_context(release.hooked(lambda: step))
                ways.enter_context(compacted(loaded, release))
                if self.recipe.recompute:
                    ways.enter_context(recomputing(loaded))
                for step in range(first, setting.steps):
                    if mastery and mastery.done and step >= self.recipe.min_steps:
                        break
                    torch.manual_seed(setting.rng("step", step).getrandbits(62))
                    optimization.begin(step)
                    with absence.of(step) as missing:
                        own = self._own(setting, new, mastery, step, missing)
                        instead = optimization.batch(step)
                        batch = self._batch(setting, own, replays, instead, step, missing)
                        loss = representation.loss(batch)
                        if mastery and not instead:
                            mastery.saw(representation.hardest[: len(own)], step)
                        for regularization in regularizations:
                            loss = loss + regularization.penalty(step)
                        losses.append(_finite(float(loss.detach()), step))
                        # Rules may hold all parameters still in a step.
                        if loss.requires_grad:
                            loss.backward()
                    optimization.step(step)
                    architecture.stepped(step, optimization)
                    if on_step:
                        on_step(step + 1, setting.steps, losses[-1])
                    if (step + 1) % save_every == 0:
                        saved.save(losses)
            adapter = architecture.adapter()
            held = {
                f"{technique.name}.{key}": count
                for technique in (optimization, *rules)
                for key, count in technique.memory_report().items()
            }
        finally:
            architecture.detach()
        return LearnResult(
            adapter,
            tuple(losses),
            len(losses),
            first,
            time.perf_counter() - started,
            peak_memory_bytes(),
            held,
        )

    def _own(
        self,
        setting: Setting,
        new: Sequence[Example],
        mastery: Mastery | None,
        step: int,
        missing: str,
    ) -> Sequence[Example]:
        """The new texts of a step: what is not known yet, or all in turn."""
        count = min(setting.batch_size, len(new))
        if mastery:
            return mastery.draw(count, missing)
        return walk(new, count, step, setting, "lesson")

    def _batch(
        self,
        setting: Setting,
        own: Sequence[Example],
        replays: Sequence[Replay],
        instead: Sequence[Example],
        step: int,
        missing: str,
    ) -> Batch:
        """What a rule puts in the place of the batch, or new texts and what is replayed."""
        examples = list(instead)
        if not examples:
            examples = [*own, *(example for replay in replays for example in replay.draw(step))]
        present = [e for e in examples if not missing or e.lesson != missing]
        return Batch.of(present or own, setting.loaded.pad_id)


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise DivergedError(
            f"The loss is {loss} at step {step + 1}.",
            remedy="Lower optimization.learning_rate.",
        )
    return loss


def joined(lesson: Lesson, earlier: Sequence[Lesson]) -> Lesson:
    """All lessons as one, for joint training; a corrected fact keeps only its newest value."""
    texts = [text for _, kept in current(earlier, lesson) for text in kept]
    others = [t for old in earlier for t in old.texts if t.kind not in ("fact", "explicit")]
    return replace(lesson, texts=(*texts, *others, *lesson.texts))


def run_digest(
    recipe: Recipe,
    setting: Setting,
    adapters: Sequence[Adapter] = (),
    weak: Sequence[tuple[str, TrainingText]] = (),
    further: Further | None = None,
) -> str:
    """What a checkpoint must agree with: recipe, lesson, what came earlier, anchors, seed, base."""
    begun = further and [sha256(further.adapter.to_bytes()).hexdigest(), *sorted(further.questions)]
    return canonical_digest(
        {
            "recipe": recipe.digest,
            "weak": [[origin, text.to_dict()] for origin, text in weak],
            "further": begun,
            "lesson": setting.lesson.digest,
            "earlier": [lesson.digest for lesson in setting.earlier],
            "adapters": [sha256(adapter.to_bytes()).hexdigest() for adapter in adapters],
            "anchors": [text.to_dict() for text in setting.anchors],
            "seed": setting.seed,
            "base": setting.loaded.base_digest,
        }
    )
