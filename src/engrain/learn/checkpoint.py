"""Checkpoints of an interrupted run: tensors only, written atomically, bound to one run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save

from engrain.errors import ResumeError
from engrain.model import kernels
from engrain.model.hardware import compute_type

if TYPE_CHECKING:
    from torch import Tensor


class Stateful(Protocol):
    """A part of a run that goes on from tensors."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Tensors that a resumed run needs beside its inputs."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken."""


def _computed() -> str:
    """What decides the last bits of a step in this process."""
    name = kernels.name()
    return f"{compute_type()} with the kernels {name}" if name else f"{compute_type()} in torch"


class Checkpoint:
    """The file from which a run continues; does nothing without a path."""

    def __init__(
        self, path: Path | None, run: str, techniques: Mapping[str, Sequence[Stateful]]
    ) -> None:
        self._path = path
        self._run = run
        self._techniques = {
            f"{category}.{index}": technique
            for category, chosen in techniques.items()
            for index, technique in enumerate(chosen)
        }

    def save(self, losses: Sequence[float]) -> None:
        """Write state and losses; a kill leaves the old file or the new one."""
        if self._path is None:
            return
        tensors = {
            f"{place}|{name}": tensor.detach().cpu().contiguous()
            for place, technique in self._techniques.items()
            for name, tensor in technique.state_dict().items()
        }
        # float.hex keeps every bit of the losses.
        history = json.dumps([float(loss).hex() for loss in losses])
        metadata = {"run": self._run, "losses": history, "compute": _computed()}
        raw = save(tensors, metadata=metadata)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".part")
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(raw).digest())
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def load(self) -> list[float]:
        """Put the saved state into the techniques; gives the losses so far, [] when fresh.

        Raises:
            ResumeError: the file is damaged, belongs to another run, or was computed in another
                number format.
        """
        if self._path is None or not self._path.exists():
            return []
        content = self._path.read_bytes()
        seal, raw = content[:32], content[32:]
        try:
            if hashlib.sha256(raw).digest() != seal:
                raise ValueError("its digest does not match")
            length = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8 : 8 + length])["__metadata__"]
            tensors = load(raw)
        except (ValueError, KeyError, SafetensorError) as error:
            raise ResumeError(
                f"The checkpoint {self._path} is damaged: {error}.",
                remedy="Delete it to learn the lesson from its first step.",
            ) from error
        if header["run"] != self._run:
            raise ResumeError(
                f"The checkpoint {self._path} is of another lesson, recipe, seed or model.",
                remedy="Delete it to learn the lesson from its first step.",
            )
        computed = header.get("compute", _computed())
        if computed != _computed():
            raise ResumeError(
                f"The checkpoint {self._path} was computed in {computed}, and this process "
                f"computes in {_computed()}: it could not continue to the bit.",
                remedy="Set model.compute as it was, with the same kernels (`engrain doctor`), or "
                "delete the file to begin anew.",
            )
        for place, technique in self._techniques.items():
            prefix = f"{place}|"
            technique.load_state_dict(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(prefix)
                }
            )
        return [float.fromhex(loss) for loss in json.loads(header["losses"])]
