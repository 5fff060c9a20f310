"""Key/value caches: room to grow without copying, and the one cache that outlives a call."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from engrain.model.profile import ArchProfile

ROOM = 64
"""Tokens of free room that a new or full buffer gets at least."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with free room at its end.

    Appending a token writes one column; a plain dynamic layer copies all columns at every token.
    All tokens are kept, of layers with a sliding window too (their mask hides the old ones), so the
    end can always be taken back. Only for inference: writes are in place.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._lent = 0

    def lend(self, length: int) -> tuple[Tensor, Tensor]:
        """A view of the first ``length`` tokens that later writes will not change.

        A write below that length, after the layer was cut back, takes new buffers.
        """
        assert self.keys is not None and self.values is not None
        self._lent = max(self._lent, length)
        return self.keys[:, :, :length].detach(), self.values[:, :, :length].detach()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values; give all of them."""
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        keys, values = self.room(stop)
        keys[:, :, start:stop] = key_states
        values[:, :, start:stop] = value_states
        return self.extend_to(stop)

    def room(self, stop: int) -> tuple[Tensor, Tensor]:
        """The buffers, ``(batch, heads, capacity, dim)``, with room for ``stop`` tokens at least.

        Whoever writes behind the tokens that are there calls :meth:`extend_to` when all is written.
        """
        assert self.keys is not None and self.values is not None
        start = self.keys.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < stop or start < self._lent:
            self._lent = 0
            capacity = max(stop + ROOM, 2 * start)
            fresh = [
                old.new_empty(*old.shape[:2], capacity, old.shape[-1])
                for old in (self.keys, self.values)
            ]
            fresh[0][:, :, :start] = self.keys
            fresh[1][:, :, :start] = self.values
            self._buffers = (fresh[0], fresh[1])
        return self._buffers

    def extend_to(self, stop: int) -> tuple[Tensor, Tensor]:
        """Make the first ``stop`` tokens of the buffers the layer's keys and values."""
        assert self._buffers is not None
        self.keys = self._buffers[0].narrow(2, 0, stop)
        self.values = self._buffers[1].narrow(2, 0, stop)
        return self.keys, self.values

    def truncate(self, length: int) -> None:
        """Keep the first tokens."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the given rows of the batch, in the given order."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._buffers = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def join(self, others: Sequence[Any]) -> None:
        """Take in the rows of other layers with as many tokens."""
        self.keys = torch.cat([layer.keys for layer in (self, *others)])
        self.values = torch.cat([layer.values for layer in (self, *others)])
        self._buffers = None


def joined(caches: Sequence[Cache]) -> Cache:
    """The rows of caches of one length, made of growing layers, in the first of them."""
    first, *others = caches
    for number, layer in enumerate(first.layers if others else ()):
        assert isinstance(layer, GrowingLayer)
        layer.join([cache.layers[number] for cache in others])
    return first


def new_cache(model: Any, profile: ArchProfile) -> Cache:
    """An empty cache that fits the architecture."""
    if profile.cache_kind == "kv":
        return Cache(layer_class_to_replicate=GrowingLayer)
    return DynamicCache(config=model.config)


def cache_argument(model: Any, cache: Cache | None) -> dict[str, Cache | None]:
    """The cache under the name by which a model's forward takes it.

    transformers renamed ``past_key_values`` to ``cache`` in 5.24.
    """
    known = inspect.signature(type(model.base_model).forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}


def truncate(cache: Cache, length: int) -> None:
    """Keep the first ``length`` tokens of a cache made of growing layers."""
    for layer in cache.layers:
        assert isinstance(layer, GrowingLayer)
        layer.truncate(length)


@dataclass(slots=True)
class Remembered:
    """The cache of one sequence of tokens, and what it was computed with."""

    key: Hashable
    ids: list[int]
    cache: Cache


class PrefixCache:
    """The cache of the last conversation, for the next turn of it.

    Every entry carries the key of the weights that filled it (state digest and revision of the
    tensors); an entry with another key is dropped, never used. An entry is taken out while it is in
    use, so two callers can't write into one cache, and one that fails midway leaves nothing behind.
    """

    def __init__(self) -> None:
        self._entry: Remembered | None = None

    def __len__(self) -> int:
        return 0 if self._entry is None else len(self._entry.ids)

    def clear(self) -> None:
        """Forget the entry."""
        self._entry = None

    def drop_unless(self, key: Hashable) -> None:
        """Forget the entry if it was made under another key."""
        if self._entry is not None and self._entry.key != key:
            self._entry = None

    def take(self, key: Hashable, ids: list[int], *, croppable: bool) -> Remembered | None:
        """The entry cut to the longest common prefix with ``ids``; it leaves the store.

        At least the last token of ``ids`` is left to compute, since its logits are needed.
        """
        entry, self._entry = self._entry, None
        if entry is None or entry.key != key:
            return None
        shared = common_prefix([entry.ids, ids[:-1]])
        if shared == 0:
            return None
        if shared < len(entry.ids):
            if not croppable:
                return None
            truncate(entry.cache, shared)
            entry.ids = entry.ids[:shared]
        return entry

    def peek(self, key: Hashable) -> Remembered | None:
        """The entry as it stands, if it was made under this key; it stays in the store."""
        return self._entry if self._entry is not None and self._entry.key == key else None

    def put(self, entry: Remembered) -> None:
        """Keep an entry whose cache holds exactly its tokens; any other is dropped."""
        if entry.cache.get_seq_length() == len(entry.ids):
            self._entry = entry


def common_prefix(sequences: list[list[int]]) -> int:
    """How many leading tokens all sequences share."""
    shortest, longest = min(sequences), max(sequences)
    # The lexicographic least and greatest differ first where any two differ.
    for position, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return position
    return min(len(shortest), len(longest))


def padded(rows: list[list[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of rows of unequal length."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, where] = torch.tensor(row, dtype=torch.long)
        mask[index, where] = 1
    return ids, mask
