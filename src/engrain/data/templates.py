"""Chat templates: from messages to the text that a model was trained to continue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engrain.data.messages import Message
from engrain.errors import NoChatTemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Render messages with the tokenizer's own chat template.

    Raises:
        NoChatTemplateError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise NoChatTemplateError(
            "The model's tokenizer has no chat template.",
            remedy="Use a chat model, or add 'chat_template' to its tokenizer_config.json.",
        )
    text = tokenizer.apply_chat_template(
        [message.to_dict() for message in messages],
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
    )
    return str(text)
