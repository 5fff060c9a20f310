"""Examples: token ids, loss mask, length of the frozen context, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engrain.data.lessons import TrainingText
from engrain.data.templates import render

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence.

    ``loss_mask[i]`` says that token ``i`` is a target (predicted from the tokens before it).
    ``context_length`` is the number of leading tokens whose keys and values a context-frozen
    representation holds fixed; the first target comes at or after it. ``before`` counts those of
    the turns before the last one: other talk, after which a question comes.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    context_length: int
    weight: float = 1.0
    kind: str = "fact"
    lesson: str = ""
    before: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples as tensors.

    ``input_ids``, ``attention_mask`` (bool) and ``loss_mask`` (bool): ``(batch, seq)``;
    ``weights``: ``(batch,)``; ``context_lengths`` and ``before``: ``(batch,)``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    loss_mask: Tensor
    weights: Tensor
    context_lengths: Tensor
    before: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], pad_id: int) -> Batch:
        """Pad examples to the longest one."""
        import torch

        longest = max(len(example) for example in examples)
        ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
        attention = torch.zeros(len(examples), longest, dtype=torch.bool)
        loss = torch.zeros(len(examples), longest, dtype=torch.bool)
        for row, example in enumerate(examples):
            ids[row, : len(example)] = torch.tensor(example.ids)
            attention[row, : len(example)] = True
            loss[row, : len(example)] = torch.tensor(example.loss_mask)
        return cls(
            ids,
            attention,
            loss,
            torch.tensor([example.weight for example in examples], dtype=torch.float32),
            torch.tensor([example.context_length for example in examples]),
            torch.tensor([example.before for example in examples]),
        )

    def rows(self, which: Sequence[int], starts: Tensor) -> Batch:
        """Some rows, each from its column ``starts`` on, padded to the longest of them."""
        import torch

        index = list(which)
        lengths = self.attention_mask.sum(-1)[index]
        columns = starts[:, None] + torch.arange(int((lengths - starts).max()))
        valid = columns < lengths[:, None]
        at = columns.clamp_max(self.input_ids.shape[1] - 1)
        return Batch(
            self.input_ids[index].gather(1, at),
            valid,
            self.loss_mask[index].gather(1, at) & valid,
            self.weights[index],
            (self.context_lengths[index] - starts).clamp_min(0),
            (self.before[index] - starts).clamp_min(0),
        )


def encode(
    tokenizer: PreTrainedTokenizerBase,
    text: TrainingText,
    *,
    lesson: str = "",
    max_length: int = 2048,
) -> Example:
    """Tokenise a training text: loss on each target and on the token that ends it.

    The text is cut from the left to ``max_length`` tokens; the last target is never cut.
    """
    places = [i for i, message in enumerate(text.messages) if message.role == "assistant"]
    ids: list[int] = []
    mask: list[bool] = []
    done = ""
    for place in places[-text.answers :]:
        prompt = render(tokenizer, text.messages[:place], add_generation_prompt=True)
        whole = render(tokenizer, text.messages[: place + 1], add_generation_prompt=False)
        if not whole.startswith(prompt):
            # Some templates rewrite earlier turns; the target then follows its own prompt.
            whole = prompt + text.messages[place].content + (tokenizer.eos_token or "")
        if not prompt.startswith(done):
            ids, mask, done = [], [], ""
        whole = whole.rstrip("\n")
        for part, learned in ((prompt[len(done) :], False), (whole[len(prompt) :], True)):
            found = tokenizer(part, add_special_tokens=False)["input_ids"]
            ids += found
            mask += [learned] * len(found)
        done = whole
    last = len(found)
    cut = max(0, min(len(ids) - max_length, len(ids) - last - 1))
    ids, mask = ids[cut:], mask[cut:]
    context, before = mask.index(True), 0
    if cut == 0 and text.answers == 1 and len(text.messages) > 2:
        earlier = render(tokenizer, text.messages[:-2], add_generation_prompt=False).rstrip("\n")
        if whole.startswith(earlier):
            found = tokenizer(earlier, add_special_tokens=False)["input_ids"]
            before = len(found) if ids[: len(found)] == found else 0
    return Example(tuple(ids), tuple(mask), context, kind=text.kind, lesson=lesson, before=before)
