"""The gate: what an exam must show before a lesson goes live, and the reasons in words.

Thresholds are fixed before training; their digest is part of the decision. Each check compares the
exam after the lesson with the exam before it, on the same questions, in pairs:

* **New facts**: a count, of which one may always be missed (of three or more). Too few is no harm,
  so the lesson is kept aside, not refused.
* **Beside them**: of the lesson's own questions that it does not answer, held out as those are,
  ``min_abstention`` are answered with "I don't know", or as many as before; one may be missed.
* **Earlier lessons, together**: the questions broken less those gained may be at most
  ``max_forgetting`` of all; beyond that it fails if an exact one-sided sign test on the questions
  that changed says so at ``alpha``.
* **Earlier lessons, the worst**: each lesson has its own allowance, ``max_worst_drop`` of its
  questions, but never fewer than so many that chance flips at the rate which the noise band
  measured would exceed in one of all lessons with probability ``alpha`` (Bonferroni). Here the
  questions *are* the facts to keep rather than a sample, so no further test is made.
* **Loss on held-out texts**: at most ``max_panel_loss_percent`` more than before, or the noise
  band if that is wider; and ``max_total_panel_loss_percent`` more than the untaught model.
* **Parts of the panel**: a fall beyond the threshold, the noise band and one item, which the sign
  test, too, finds at ``alpha``. So one or two flips among 24 items never refuse a lesson.
* **Abstention**: either at least ``min_abstention`` after, or no such fall.

A harm check that failed by no more than ``quarantine_margin`` of its allowance is a near miss.
All passed: accepted. Near misses or too little learned: quarantined. Harm: rejected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engrain.errors import UsageError
from engrain.exam.decision import Check, Decision, GateThresholds, Severity, Verdict
from engrain.exam.exam import Exam
from engrain.exam.noise import FigureNoise, NoiseBand
from engrain.exam.panel import PanelResult
from engrain.exam.probes import RECALL_KINDS
from engrain.exam.statistics import (
    PairedCounts,
    binomial_tail,
    clopper_pearson,
    paired_difference,
)

LEARNED_KINDS = (*RECALL_KINDS, "norm")
"""The kinds of probe by which a lesson shows that it was learned."""

FEW = 3
"""Questions about new facts, or beside them, from which on one may be missed."""

_EPSILON = 1e-9


def decide(
    before: Exam,
    after: Exam,
    thresholds: GateThresholds | None = None,
    noise: NoiseBand | None = None,
    *,
    lesson: str | None = None,
    superseded: Collection[str] = (),
    peaks: Mapping[str, float] | None = None,
    origin: PanelResult | None = None,
    ignore: Collection[str] = (),
) -> Decision:
    """Decide on a lesson from the exams before and after it.

    Args:
        before: the exam on the weights that are served.
        after: the same exam on the candidate.
        thresholds: fixed before training.
        noise: the measured noise band; assumed if None.
        lesson: the lesson that was learned; by default the last one of ``after``.
        superseded: ids of earlier lessons' probes whose answers this lesson corrects.
        peaks: each earlier lesson's best recall so far, so that slow forgetting adds up.
        origin: the panel's result on the untaught model, so that slow damage adds up.
        ignore: ids of panel items that the lesson may truly answer (``Panel.touched_by``).

    Raises:
        UsageError: the exams were made with different panels, or hold no such lesson.
    """
    gate = _Gate(
        before, after, thresholds or GateThresholds(), noise or NoiseBand.assumed(), ignore
    )
    names = list(after.results)
    learned = lesson if lesson is not None else (names[-1] if names else "")
    if lesson is not None and lesson not in after.results:
        raise UsageError(
            f"The exam holds no probes of lesson {lesson!r}.",
            remedy="Examine the lesson's own probes before and after it.",
        )
    earlier = [name for name in names if name != learned]
    checks = [
        *gate.new_facts(learned),
        *gate.beside(learned),
        *gate.earlier_lessons(earlier, superseded, peaks or {}),
        *gate.panel_loss(origin),
        *gate.panel_parts(),
        *gate.abstention(names, superseded),
    ]
    return _verdict(checks, gate.thresholds)


def _verdict(checks: list[Check], thresholds: GateThresholds) -> Decision:
    failed = [check for check in checks if not check.passed]
    if not checks:
        verdict: Verdict = "quarantined"
        reasons = ["There was nothing to examine: no probes and no panel."]
    elif not failed:
        verdict = "accepted"
        reasons = [check.words for check in checks if check.name in ("recall", "earlier lessons")]
        reasons.append(f"All {len(checks)} checks passed.")
    else:
        verdict = "rejected" if any(c.severity == "harm" for c in failed) else "quarantined"
        reasons = [check.words for check in failed]
    return Decision(verdict, reasons, checks, thresholds.digest)


class _Gate:
    """The checks, over what they share."""

    def __init__(
        self,
        before: Exam,
        after: Exam,
        thresholds: GateThresholds,
        noise: NoiseBand,
        ignore: Collection[str],
    ) -> None:
        self.before, self.after, self.thresholds = before, after, thresholds
        self.noise, self.ignore = noise, ignore
        if (before.panel is None) != (after.panel is None) or (
            before.panel and after.panel and before.panel.digest != after.panel.digest
        ):
            raise UsageError(
                "The exams before and after were not made with the same panel.",
                remedy="Run the exam before the lesson again with the panel of today.",
            )

    def severity(self, excess: float, allowed: float) -> Severity:
        """Near miss or harm, by how far beyond the allowance."""
        near = allowed * self.thresholds.quarantine_margin
        return "near" if excess <= near + _EPSILON else "harm"

    # ------------------------------------------------------------------ what was learned
    def new_facts(self, lesson: str) -> list[Check]:
        earlier = self.before.outcomes(lesson, kinds=LEARNED_KINDS)
        found = self.after.outcomes(lesson, kinds=LEARNED_KINDS)
        if not found:
            if not lesson:
                return []
            return [
                Check(
                    "recall",
                    math.nan,
                    math.nan,
                    self.thresholds.min_recall,
                    False,
                    "There is no question about the new facts that was kept from training, "
                    "so it can't be shown that they were learned.",
                    "little",
                )
            ]
        right, total = sum(found.values()), len(found)
        least = self.thresholds.min_recall
        needed, asked = _needed(least, total), _count(total, "question")
        words = f"It recalls {right} of {asked} about the new facts (needed: {needed})."
        return [_counted("recall", earlier, found, least, needed, words)]

    def beside(self, lesson: str) -> list[Check]:
        """The new lesson's own questions about what was not told: a cat is not the new puppy."""
        earlier = self.before.outcomes(lesson, kinds=("abstention",), ignore=self.ignore)
        found = self.after.outcomes(lesson, kinds=("abstention",), ignore=self.ignore)
        if not found:
            return []
        right, total = sum(found.values()), len(found)
        least = self.thresholds.min_abstention
        # A model without the manners to say so is not asked for more than it said before.
        needed = min(_needed(least, total), sum(earlier.values()))
        words = (
            f"Asked {_count(total, 'thing')} beside the new facts that it was never told, it says "
            f"{right} times that it does not know (needed: {needed})."
        )
        return [_counted("beside the new facts", earlier, found, least, needed, words)]

    # ------------------------------------------------------------------ what was known
    def earlier_lessons(
        self, lessons: Sequence[str], superseded: Collection[str], peaks: Mapping[str, float]
    ) -> list[Check]:
        counts: dict[str, PairedCounts] = {}
        for lesson in lessons:
            pairs = PairedCounts.of(
                self.before.outcomes(lesson, kinds=LEARNED_KINDS, ignore=superseded),
                self.after.outcomes(lesson, kinds=LEARNED_KINDS, ignore=superseded),
            )
            if pairs.total:
                counts[lesson] = pairs
        if not counts:
            return []
        return [self._together(counts), self._worst(counts, peaks)]

    def _together(self, counts: Mapping[str, PairedCounts]) -> Check:
        pairs = PairedCounts(
            sum(c.kept for c in counts.values()),
            sum(c.broken for c in counts.values()),
            sum(c.gained for c in counts.values()),
            sum(c.wrong for c in counts.values()),
        )
        limit = self.thresholds.max_forgetting
        allowed = max(1.0, limit * pairs.total)
        beyond = pairs.lost > allowed + _EPSILON
        passed = not (beyond and pairs.p_worse < self.thresholds.alpha)
        words = (
            f"Of {_count(pairs.total, 'question')} about earlier lessons it answers {pairs.after} "
            f"(before: {pairs.before}; {pairs.broken} lost, {pairs.gained} gained"
        )
        words += f"; within chance, p = {pairs.p_worse:.2f})." if beyond and passed else ")."
        return Check(
            "earlier lessons",
            pairs.before / pairs.total,
            pairs.after / pairs.total,
            limit,
            passed,
            words,
            "none" if passed else self.severity(pairs.lost - allowed, allowed),
            _paired(pairs, allowed),
        )

    def _worst(self, counts: Mapping[str, PairedCounts], peaks: Mapping[str, float]) -> Check:
        flips = max(0.01, self.noise.of("reading").flips)
        worst: tuple[float, str, float, int] | None = None
        for lesson, pairs in counts.items():
            peak = max(pairs.before, round(peaks.get(lesson, 0.0) * pairs.total))
            lost = peak - pairs.after
            allowed = max(1, math.ceil(self.thresholds.max_worst_drop * pairs.total - _EPSILON))
            # With many lessons, one of them loses a question or two by chance alone.
            while (
                allowed < pairs.total
                and binomial_tail(allowed + 1, pairs.total, flips) * len(counts)
                >= self.thresholds.alpha
            ):
                allowed += 1
            if worst is None or lost - allowed > worst[0]:
                worst = (lost - allowed, lesson, peak / pairs.total, allowed)
        assert worst is not None
        excess, lesson, peak_share, allowed = worst
        pairs = counts[lesson]
        passed = excess <= 0
        lost = round(excess) + allowed
        return Check(
            "worst earlier lesson",
            peak_share,
            pairs.after / pairs.total,
            self.thresholds.max_worst_drop,
            passed,
            f"The earlier lesson that lost most ({lesson}) answers {pairs.after} of "
            f"{_count(pairs.total, 'question')}, at its best {lost + pairs.after} "
            f"(may lose: {allowed}).",
            # One more than allowed is a near miss however small the lesson.
            "none" if passed else "near" if excess <= 1 else self.severity(excess, allowed),
            {
                "lesson": lesson,
                "lost": lost,
                "allowed": allowed,
                "total": pairs.total,
                "lessons": len(counts),
                "flip_rate": flips,
                "method": "count against its allowance; binomial tail, Bonferroni over lessons",
            },
        )

    # ------------------------------------------------------------------ the panel
    def panel_loss(self, origin: PanelResult | None) -> list[Check]:
        earlier, now = self.before.panel, self.after.panel
        if earlier is None or now is None or not earlier.texts:
            return []
        band = self.noise.of("loss", value=earlier.loss)
        ids = [name for name in earlier.texts if name in now.texts]
        spread = paired_difference(
            [earlier.texts[name].nats for name in ids], [now.texts[name].nats for name in ids]
        )
        checks = [
            self._loss(
                "panel loss",
                "The loss on held-out texts",
                earlier.loss,
                now.loss,
                self.thresholds.max_panel_loss_percent,
                band,
                {
                    "texts": len(ids),
                    "mean_change": spread.mean,
                    "low": spread.interval.low,
                    "high": spread.interval.high,
                    "method": "relative change; paired t interval over the texts, in nats",
                },
            )
        ]
        if origin is not None and origin.digest == now.digest and origin.texts:
            checks.append(
                self._loss(
                    "panel loss since the start",
                    "Since the untaught model, the loss on held-out texts",
                    origin.loss,
                    now.loss,
                    self.thresholds.max_total_panel_loss_percent,
                    band,
                    {"method": "relative change"},
                )
            )
        return checks

    def _loss(
        self,
        name: str,
        subject: str,
        earlier: float,
        now: float,
        limit: float,
        band: FigureNoise,
        statistics: Mapping[str, Any],
    ) -> Check:
        change = 100 * (now / earlier - 1) if earlier > 0 else math.inf
        band_percent = 100 * band.band / earlier if earlier > 0 else 0.0
        allowed = max(limit, band_percent)
        finite = math.isfinite(change)
        passed = finite and change <= allowed + _EPSILON
        if finite:
            words = (
                f"{subject} went from {earlier:.3f} to {now:.3f} nats a token "
                f"({change:+.2f}%; at most {allowed:+.2f}%, noise {band_percent:.2f}%)."
            )
        else:
            words = f"{subject} is not a finite number any more."
        severity: Severity = "none"
        if not passed:
            severity = self.severity(change - allowed, allowed) if finite else "harm"
        figures = {**statistics, "change_percent": change, "noise_percent": band_percent}
        return Check(name, earlier, now, allowed, passed, words, severity, figures)

    def panel_parts(self) -> list[Check]:
        """One check a part; abstention has its own."""
        limits = {
            "reading": (self.thresholds.max_reading_drop, "facts told in the same conversation"),
            "arithmetic": (self.thresholds.max_arithmetic_drop, "arithmetic"),
            "locality": (self.thresholds.max_locality_drop, "facts of the world"),
            "format": (self.thresholds.max_format_drop, "doing as told"),
            "capability": (self.thresholds.max_capability_drop, "general ability"),
        }
        earlier, now = self.before.panel, self.after.panel
        if earlier is None or now is None:
            return []
        checks = []
        for part, (limit, about) in limits.items():
            pairs = PairedCounts.of(
                earlier.outcomes(part, ignore=self.ignore), now.outcomes(part, ignore=self.ignore)
            )
            if not pairs.total:
                continue
            noise = self.noise.of(part, items=pairs.total)
            extra: dict[str, Any] = {}
            if part == "locality":
                extra["same_answers"] = sum(
                    now.items[name].answer == earlier.items[name].answer
                    for name in now.outcomes(part)
                    if name in earlier.items
                )
            checks.append(self._part(part, about, pairs, limit, noise, extra))
        return checks

    def _part(
        self,
        name: str,
        about: str,
        pairs: PairedCounts,
        limit: float,
        noise: FigureNoise,
        extra: Mapping[str, Any],
    ) -> Check:
        passed, allowed, beyond = self._no_worse(pairs, limit, noise)
        words = (
            f"Of {_count(pairs.total, 'question')} on {about} it gets {pairs.after} right "
            f"(before: {pairs.before}; may fall by {math.floor(allowed + _EPSILON)}"
        )
        words += f"; within chance, p = {pairs.p_worse:.2f})." if beyond and passed else ")."
        return Check(
            name,
            pairs.before / pairs.total,
            pairs.after / pairs.total,
            limit,
            passed,
            words,
            "none" if passed else self.severity(pairs.lost - allowed, allowed),
            {**_paired(pairs, allowed), **extra, "noise_band": noise.band},
        )

    def _no_worse(
        self, pairs: PairedCounts, limit: float, noise: FigureNoise
    ) -> tuple[bool, float, bool]:
        """Whether a part did not fall, how many items it may, and whether it fell by more."""
        allowed = max(limit * pairs.total, noise.band * pairs.total, 1.0)
        beyond = pairs.lost > allowed + _EPSILON
        return not (beyond and pairs.p_worse < self.thresholds.alpha), allowed, beyond

    def abstention(self, lessons: Sequence[str], superseded: Collection[str]) -> list[Check]:
        """The panel's and all lessons' questions about what was never told, together."""
        kinds, ignore = ("abstention",), {*superseded, *self.ignore}
        earlier: dict[str, bool] = {}
        now: dict[str, bool] = {}
        if self.before.panel and self.after.panel:
            earlier |= self.before.panel.outcomes("abstention", ignore=ignore)
            now |= self.after.panel.outcomes("abstention", ignore=ignore)
        for lesson in lessons:
            earlier |= self.before.outcomes(lesson, kinds=kinds, ignore=ignore)
            now |= self.after.outcomes(lesson, kinds=kinds, ignore=ignore)
        pairs = PairedCounts.of(earlier, now)
        if not pairs.total:
            return []
        least, limit = self.thresholds.min_abstention, self.thresholds.max_abstention_drop
        noise = self.noise.of("abstention", items=pairs.total)
        no_worse, allowed, _ = self._no_worse(pairs, limit, noise)
        enough = pairs.after >= least * pairs.total - _EPSILON
        passed = enough or no_worse
        needed = math.ceil(least * pairs.total - _EPSILON)
        words = (
            f"Asked {_count(pairs.total, 'thing')} that it was never told, it says {pairs.after} "
            f"times that it does not know (before: {pairs.before}; needed: {needed}, "
            f"or no more than {math.floor(allowed + _EPSILON)} fewer than before)."
        )
        return [
            Check(
                "abstention",
                pairs.before / pairs.total,
                pairs.after / pairs.total,
                least,
                passed,
                words,
                "none" if passed else self.severity(pairs.lost - allowed, allowed),
                {**_paired(pairs, allowed), "enough": enough, "no_worse": no_worse},
            )
        ]


def _needed(share: float, total: int) -> int:
    """So many of a total; with few a share would ask for all of them: one may always be missed."""
    needed = math.ceil(share * total - _EPSILON)
    return min(needed, total - 1) if total >= FEW and share < 1 else needed


def _counted(
    name: str,
    earlier: Mapping[str, bool],
    found: Mapping[str, bool],
    threshold: float,
    needed: int,
    words: str,
) -> Check:
    """A check of a count; too few is little, not harm."""
    right, total = sum(found.values()), len(found)
    interval = clopper_pearson(right, total)
    return Check(
        name,
        sum(earlier.values()) / len(earlier) if earlier else math.nan,
        right / total,
        threshold,
        right >= needed,
        words,
        "none" if right >= needed else "little",
        {
            "right": right,
            "total": total,
            "needed": needed,
            "right_before": sum(earlier.values()),
            "missed": [name for name, right in found.items() if not right],
            "low": interval.low,
            "high": interval.high,
            "method": "count; Clopper-Pearson 95% interval",
        },
    )


def _paired(pairs: PairedCounts, allowed: float) -> dict[str, Any]:
    interval = clopper_pearson(pairs.after, pairs.total)
    return {
        "broken": pairs.broken,
        "gained": pairs.gained,
        "total": pairs.total,
        "allowed": allowed,
        "p_worse": pairs.p_worse,
        "low": interval.low,
        "high": interval.high,
        "method": "paired counts; one-sided exact sign test; Clopper-Pearson 95% interval",
    }


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
