"""Dream replay: neighbouring questions with the answers that the model gave before the lesson.

Source: generative replay (Shin et al., arXiv 1705.08690) without a second model: the old model
labels inputs that stand for what it knew. There a generator draws the inputs; here self-study puts
things beside the told ones into the lesson's own wordings, and keeps what the untaught model
answers closed book. Those answers must not change: "I don't know" for what was never told, the
fact for what an earlier lesson taught. The contrast is matched in wording; unmatched contrast
teaches the wording instead of the fact (docs/LOG.md).

Only the first ``decides`` tokens of an answer are targets: there the model chooses between an
answer and "I don't know". The rest follows by itself, and as targets it would only thin out the
gradient of that choice, since a text's loss is the mean over its targets (docs/LOG.md).

``share`` counts contrast texts per new text in a batch. Memory: the lesson's contrast texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engrain.data.examples import Example
from engrain.learn.registry import register
from engrain.learn.replay.reservoir import walk
from engrain.learn.technique import Replay, Setting, option


@dataclass(frozen=True)
class DreamConfig:
    """Hyper-parameters of dream replay."""

    share: float = option(1.0, "contrast texts for each new text of a batch", low=0.0, high=64.0)
    decides: int = option(3, "first tokens of an answer that are targets; 0 takes all", low=0)


@register("dream")
class Dream(Replay):
    """Replay of the model's own answers to neighbouring questions."""

    Config = DreamConfig

    def prepare(self, setting: Setting) -> None:
        """Take the lesson's contrast texts."""
        self._texts = [text for text in setting.lesson.texts if text.kind == "contrast"]
        self._count = round(self.config.share * setting.batch_size)
        self._setting = setting

    def _to_decision(self, example: Example) -> Example:
        """The example with its first targets alone, cut behind them."""
        end = example.loss_mask.index(True) + self.config.decides
        if not self.config.decides or end >= len(example):
            return example
        return replace(example, ids=example.ids[:end], loss_mask=example.loss_mask[:end])

    def draw(self, step: int) -> Sequence[Example]:
        """This step's share, walking through shuffles of the contrast texts."""
        drawn = walk(self._texts, self._count, step, self._setting, "dream")
        return [self._to_decision(self._setting.encode(text)) for text in drawn]
