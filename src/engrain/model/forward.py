"""The model's own forward as the engine calls it: padding, the logits that are kept, prefixes."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from engrain.model.cache import cache_argument, common_prefix, new_cache, padded
from engrain.model.loading import LoadedModel

SHARED_PREFIX = 16
"""Leading tokens that all prompts of a batch must share before they are computed only once."""
KEPT = 4
"""Prefixes that are kept: a conversation with one request and another, one message alone."""


@dataclass
class _Prefix:
    """What a batch began with, under the weights that ``key`` names."""

    key: Hashable
    ids: list[int]
    cache: Cache


class Forward:
    """Steps a loaded model over padded rows, with a cache or without."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
        self._prefixes: list[_Prefix] = []

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        cache: Cache | None = None,
        positions: Tensor | None = None,
        keep: int | Tensor | None = 1,
    ) -> Tensor:
        """Logits ``(rows, kept, vocabulary)`` of tokens ``(rows, seq)``; ``keep`` None: all."""
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if positions is not None:
            arguments["position_ids"] = positions
        if keep is not None and self._keeps_logits:
            arguments["logits_to_keep"] = keep
        arguments |= cache_argument(self.loaded.model, cache)
        output = self.loaded.model(**arguments, use_cache=cache is not None, return_dict=True)
        logits: Tensor = output.logits
        if isinstance(keep, Tensor) and not self._keeps_logits:
            logits = logits[:, keep]
        return logits

    def padded(self, rows: Sequence[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of what is no padding, ``(rows, seq)`` each, on the device."""
        ids, mask = padded(list(rows), self.loaded.pad_id, left=left)
        return ids.to(self.loaded.device), mask.to(self.loaded.device)

    def begun(self, prompts: Sequence[list[int]], key: Hashable = None) -> tuple[Cache, int]:
        """A cache of what prompts begin with, a row for each, and how many tokens that are.

        It is empty where sharing does not pay. With a ``key`` of the weights in force it goes on
        from what the calls before began with, and its last bits depend on what that was.
        """
        shared = self._shared(prompts)
        cache = new_cache(self.loaded.model, self.loaded.profile)
        if not shared:
            return cache, 0
        wanted = prompts[0][:shared]
        if key is None:
            self._extend(cache, wanted, 0)
            cache.batch_repeat_interleave(len(prompts))
        else:
            _copy(self._prefix(wanted, key), cache, shared, len(prompts))
        return cache, shared

    def _prefix(self, wanted: list[int], key: Hashable) -> Cache:
        """A cache of one row that begins with the tokens."""
        own = [prefix for prefix in self._prefixes if prefix.key == key]
        known = [common_prefix([prefix.ids, wanted]) for prefix in own]
        best = max(range(len(own)), key=known.__getitem__, default=None)
        if best is None or known[best] < SHARED_PREFIX:
            found = _Prefix(key, [], new_cache(self.loaded.model, self.loaded.profile))
        elif known[best] in (len(own[best].ids), len(wanted)):
            found = own[best]
        else:
            found = _Prefix(
                key, wanted[: known[best]], new_cache(self.loaded.model, self.loaded.profile)
            )
            _copy(own[best].cache, found.cache, known[best], 1)
        if len(found.ids) < len(wanted):
            self._extend(found.cache, wanted[len(found.ids) :], len(found.ids))
            found.ids = wanted
        # What is short is soon read again.
        others = sorted((p for p in own if p is not found), key=lambda p: -len(p.ids))
        self._prefixes = [found, *others][:KEPT]
        return found.cache

    def _extend(self, cache: Cache, tokens: list[int], start: int) -> None:
        ids, _ = self.padded([tokens], left=False)
        mask = ids.new_ones(1, start + len(tokens))
        positions = torch.arange(start, start + len(tokens), device=ids.device)[None]
        self(ids, mask, cache=cache, positions=positions)

    def _shared(self, prompts: Sequence[list[int]]) -> int:
        """Leading tokens to compute once for the whole batch; 0 where that does not pay."""
        profile = self.loaded.profile
        # With padding between the prefix and the rest, a sliding window would count the padding.
        if len(prompts) < 2 or profile.cache_kind != "kv" or any(profile.sliding_windows):
            return 0
        # Every row needs a token of its own to compute its logits.
        shared = min(common_prefix(list(prompts)), min(map(len, prompts)) - 1)
        return shared if shared >= SHARED_PREFIX else 0


def _copy(source: Cache, target: Cache, length: int, rows: int) -> None:
    """Put the first tokens of a cache of one row into an empty one, for each of its rows."""
    layers: list[Any] = list(source.layers)
    for index, layer in enumerate(layers):
        keys, values = (
            part[:, :, :length].expand(rows, -1, -1, -1) for part in (layer.keys, layer.values)
        )
        target.update(keys, values, index)
