"""A model in memory: its live weights, and the ones that it was loaded with.

The weights of the file are mapped, not copied, wherever the file holds them as they are needed: the
system shares its pages between all who map them and takes them back when memory is short.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engrain.errors import ModelError
from engrain.model.digest import tensor_digest
from engrain.model.profile import ArchProfile

SAMPLE = 64
"""Values of each tensor that tell whether it was written."""


class StoredWeights:
    """The tensors of safetensors files by name, mapped: a page is read when it is looked at.

    A mapping keeps the file that it was made of, also when another is moved into its place; to
    write into a model's file while it is loaded is not safe, as with every mapped file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        from safetensors import safe_open

        self._where: dict[str, Any] = {}
        for file in files:
            handle = safe_open(file, framework="pt")
            self._where.update(dict.fromkeys(handle.keys(), handle))

    def like(self, name: str, live: Tensor) -> Tensor | None:
        """The tensor of that name, if ``live`` was made of it without losing a bit.

        Three runs of values tell that: transformers reorders the tensors of some architectures.
        More would bring most pages of the file into memory.
        """
        if name not in self._where:
            return None
        found: Tensor = self._where[name].get_tensor(name)
        exact = found.dtype == live.dtype or (found.dtype, live.dtype) == (
            torch.bfloat16,
            torch.float32,
        )
        if not exact or found.shape != live.shape:
            return None
        same = torch.equal(_runs(found).to(live.dtype), _runs(live).cpu())
        return found if same else None


@dataclass(eq=False)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and what is known of both.

    The weights that the model was loaded with are kept aside, so a state is always folded from
    them and never from weights that were changed before.
    """

    model: Any
    tokenizer: Any
    source: str
    base_digest: str
    profile: ArchProfile
    stop_ids: tuple[int, ...]
    pad_id: int
    files: InitVar[StoredWeights | None] = None
    _parameters: dict[str, torch.nn.Parameter] = field(init=False, repr=False)
    _base: dict[str, Tensor] = field(init=False, repr=False)
    _mapped: set[str] = field(init=False, repr=False)
    ground: Callable[[], Mapping[str, Tensor]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self, files: StoredWeights | None) -> None:
        self.model.eval()
        # Parameters are kept by the name they have now: wrapping modules, as PEFT does, renames.
        self._parameters = dict(self.model.named_parameters())
        self._base, self._mapped = {}, set()
        for name, parameter in self._parameters.items():
            live = parameter.detach()
            mapped = files.like(name, live) if files is not None else None
            self._base[name] = _smallest(live) if mapped is None else mapped
            if mapped is not None:
                self._mapped.add(name)

    @property
    def max_length(self) -> int:
        """Tokens of context that the model takes."""
        return self.profile.max_length

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        return next(iter(self._parameters.values())).dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the live weights and of those kept aside; what is mapped takes no memory."""
        aside = (tensor for name, tensor in self._base.items() if name not in self._mapped)
        tensors = (*self._parameters.values(), *aside)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def revision(self) -> int:
        """A number that changes when the weights of the model do, announced or not.

        It is taken from the tensors' own write counters and, since fused optimisers do not count,
        from a sample of the values; the engine binds its cache to it.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        return hash(tuple(_trace(tensor) for tensor in tensors))

    def weights(self) -> dict[str, Tensor]:
        """The live parameters by name, tied ones once; detached, not copied."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def base_weights(self) -> dict[str, Tensor]:
        """Fresh fp32 copies of the weights that the model was loaded with, on the CPU."""
        return {name: tensor.to(torch.float32, copy=True) for name, tensor in self._base.items()}

    def stored(self) -> Mapping[str, Tensor]:
        """The weights that the model was loaded with, on the CPU; maybe bf16, never written."""
        return self._base

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a whole state into the live parameters, in place; tied ones stay tied.

        Raises:
            ModelError: a name is missing or unknown, or a shape differs; nothing was changed.
        """
        self._check(weights)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                # What stays as it is stays shared with the file.
                if not _equal(parameter.detach(), weights[name]):
                    parameter.copy_(weights[name])

    def exchange(self, weights: dict[str, Tensor], aside: dict[str, Tensor]) -> None:
        """Put a whole state in, and keep what it changes ``aside``, as it was first.

        ``weights`` is emptied on the way, so the model is not in memory once more than it must be.
        An interrupted exchange is taken back by :meth:`put_back`, too.

        Raises:
            ModelError: as :meth:`set_weights` does; nothing was changed.
        """
        self._check(weights)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                new = weights.pop(name)
                if new.data_ptr() != parameter.data_ptr() and not _equal(parameter.detach(), new):
                    if name not in aside:
                        aside[name] = parameter.detach().clone()
                    parameter.copy_(new)

    def put_back(self, aside: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`exchange` kept aside, to the bit."""
        with torch.no_grad():
            for name, tensor in aside.items():
                self._parameters[name].copy_(tensor)

    def _check(self, weights: Mapping[str, Tensor]) -> None:
        wrong = sorted(set(weights) ^ set(self._parameters)) or sorted(
            name for name, tensor in weights.items() if tensor.shape != self._parameters[name].shape
        )
        if wrong:
            raise ModelError(
                f"The weights do not fit the model ({len(wrong)} names, the first: {wrong[0]!r}).",
                remedy="Fold them from the base weights of this model.",
            )

    def reset(self) -> None:
        """Put back the weights that the model was loaded with."""
        self.set_weights(self._base)

    @contextmanager
    def untaught(self) -> Iterator[None]:
        """Hold the weights of before all lessons; those in force come back, to the bit.

        They are the base's, or those that :attr:`ground` gives: the base with its manners. Only the
        parameters that differ are kept aside: a lesson mostly changes a part of them.
        """
        aside: dict[str, Tensor] = {}
        try:
            # The names alone are copied: what the ground alone holds goes tensor by tensor.
            self.exchange(dict(self.ground() if self.ground else self._base), aside)
            yield
        finally:
            self.put_back(aside)

    def weights_digest(self) -> str:
        """The digest of the live parameters."""
        return tensor_digest(self.weights())

    def changed_since(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Names of the parameters whose bits are not those of ``weights``."""
        changed = []
        for name, parameter in self._parameters.items():
            expected = weights.get(name)
            if expected is None or not _equal(parameter.detach(), expected.detach()):
                changed.append(name)
        return changed

    def clone(self) -> LoadedModel:
        """A candidate copy with its own parameters; the tokenizer and the base are shared."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        twin._parameters = dict(twin.model.named_parameters())
        return twin


def _trace(tensor: Tensor) -> tuple[int, int, bytes]:
    """What tells a tensor from the same one after a write."""
    sample = _sample(tensor.detach()).cpu().contiguous()
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), version, sample.view(torch.uint8).numpy().tobytes()


def _sample(tensor: Tensor) -> Tensor:
    """Some values from all over a tensor."""
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)][: SAMPLE + 1]


def _runs(tensor: Tensor) -> Tensor:
    """Values from the beginning, from within, and from the end of a tensor."""
    flat = tensor.reshape(-1)
    within = 3 * flat.numel() // 8
    return torch.cat([flat[:SAMPLE], flat[within : within + SAMPLE], flat[-SAMPLE:]])


def _equal(live: Tensor, expected: Tensor) -> bool:
    """Whether a tensor is, to the bit, what another is in its type."""
    if live.shape != expected.shape:
        return False
    return torch.equal(_bits(live), _bits(expected.to(live.device, live.dtype)))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _smallest(tensor: Tensor) -> Tensor:
    """A private CPU copy, as bf16 where that loses no bit: most checkpoints were stored so."""
    if tensor.dtype == torch.float32:
        half = tensor.to(torch.bfloat16)
        if torch.equal(_bits(half.to(torch.float32)), _bits(tensor)):
            return half.cpu()
    return tensor.cpu().clone()
