"""Which words are words: a small model garbles what it copies ("drivingol" for "idol").

No word list is needed: a common word is one token of the model's own tokenizer, an invented one is
several. What was said in the conversation counts as a word whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engrain.data.messages import Conversation
from engrain.study.wording import ASKING_WORDS, FUNCTION_WORDS, stem, words

_COMMON = ("would", "there", "which", "about", "where", "their", "please", "know")
"""Words that any tokenizer with a vocabulary of words holds whole."""

GARBLED = "it holds something that is no word and that nobody said"
STRAYED = "it asks for other things than the user spoke of"


@dataclass
class Lexicon:
    """The words of a conversation and of a tokenizer."""

    tokenizer: Any
    said: frozenset[str]
    _known: dict[str, bool] = field(default_factory=dict)
    _usable: bool = True

    @classmethod
    def of(cls, tokenizer: Any, conversation: Conversation) -> Lexicon:
        """The words said in a conversation, by anyone, beside those of a tokenizer."""
        said = {stem(word) for m in conversation.messages for word in words(m.content)}
        lexicon = cls(tokenizer, frozenset(said))
        # A tokenizer of bytes or letters tells nothing about words.
        lexicon._usable = sum(map(lexicon._whole, _COMMON)) >= len(_COMMON) // 2
        return lexicon

    def garbled(self, text: str, given: Iterable[str] = ()) -> list[str]:
        """Words of a text that nobody said, that no ``given`` text holds and that are no words."""
        allowed = {stem(word) for other in given for word in words(other)}
        return [word for word in words(text) if stem(word) not in allowed and self._odd(word)]

    def strayed(self, about: Iterable[str]) -> bool:
        """Whether stems of what is asked are more often unheard of than heard in the talk."""
        asked = set(about)
        new = {word for word in asked if word not in self.said}
        return len(new) > 1 and 2 * len(new) >= len(asked)

    def _odd(self, word: str) -> bool:
        if not self._usable or stem(word) in self.said or word in FUNCTION_WORDS | ASKING_WORDS:
            return False
        return not self._whole(word)

    def _whole(self, word: str) -> bool:
        """Whether the tokenizer holds a word in one piece, in small letters or with a capital."""
        if word not in self._known:
            shapes = (word, f" {word}", word.capitalize(), f" {word.capitalize()}")
            self._known[word] = any(
                len(self.tokenizer(shape, add_special_tokens=False)["input_ids"]) == 1
                for shape in shapes
            )
        return self._known[word]
