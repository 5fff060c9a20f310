"""Examples: token ids, loss mask, length of the frozen context, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engrain.data.lessons import TrainingText

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence.

    ``loss_mask[i]`` says that token ``i`` is a target (predicted from the tokens before it).
    ``context_length`` is the number of leading tokens whose keys and values a context-frozen
    representation holds fixed; the first target comes at or after it.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    context_length: int
    weight: float = 1.0
    kind: str = "fact"
    lesson: str = ""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples as tensors.

    ``input_ids``, ``attention_mask`` (bool) and ``loss_mask`` (bool): ``(batch, seq)``;
    ``weights``: ``(batch,)``; ``context_lengths``: ``(batch,)``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    loss_mask: Tensor
    weights: Tensor
    context_lengths: Tensor

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
        )


def encode(
    tokenizer: PreTrainedTokenizerBase,
    text: TrainingText,
    *,
    lesson: str = "",
    max_length: int = 2048,
) -> Example:
    """Tokenise a training text: loss on the target and on the token that ends it.

    The prompt is cut from the left to ``max_length`` tokens; the target is never cut.
    """
    from engrain.data.templates import render

    prompt = render(tokenizer, text.messages[:-1], add_generation_prompt=True)
    whole = render(tokenizer, text.messages, add_generation_prompt=False)
    if not whole.startswith(prompt):
        # Some templates rewrite earlier turns; the target then follows its own prompt.
        whole = prompt + text.target + (tokenizer.eos_token or "")
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    target_ids = tokenizer(whole[len(prompt) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
    prompt_ids = prompt_ids[-max(1, max_length - len(target_ids)) :]
    ids = (*prompt_ids, *target_ids)
    mask = (False,) * len(prompt_ids) + (True,) * len(target_ids)
    return Example(ids, mask, len(prompt_ids), kind=text.kind, lesson=lesson)
