"""The noise band: how much each panel figure moves when nothing but rounding changes.

A panel figure is exact for given weights, yet a change of it need not mean anything: a greedy
answer on the edge between two words flips with the last bits of the weights. So the panel is run
once on a few copies of the base weights, every weight times 1 + N(0, 2**-9), which is the size of
rounding to bfloat16, and the spread of each figure is kept. A change within twice the standard
deviation can't be told from rounding. Measured once per base model, machine and panel.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from engrain.data.lessons import canonical_digest
from engrain.exam.panel import Panel, PanelResult, run_panel
from engrain.exam.probes import ExamEngine
from engrain.exam.statistics import deviation, mean
from engrain.model.hardware import overridden_compute

RELATIVE_SIZE = 2.0**-9
"""Standard deviation of the relative change of a weight: the unit roundoff of bfloat16."""

ASSUMED_LOSS = 0.001
"""Relative band of the loss where none was measured."""

ASSUMED_FLIPS = 0.03
"""Share of items that flip by rounding alone where none was measured."""


class Weights(Protocol):
    """What is needed of a loaded model to change its weights and put them back."""

    base_digest: str

    def weights(self) -> dict[str, Any]:
        """The named tensors."""

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Copy tensors into the model."""


@dataclass(frozen=True, slots=True)
class FigureNoise:
    """The noise of one figure.

    ``band``: twice the standard deviation over the copies, in the figure's own unit;
    ``granularity``: what one item is worth (0 for the loss), kept apart from the band;
    ``flips``: mean share of items whose outcome differs from the unperturbed weights.
    """

    mean: float
    deviation: float
    band: float
    granularity: float
    flips: float = 0.0

    @property
    def floor(self) -> float:
        """The smallest change that can mean anything: the band, but at least one item."""
        return max(self.band, self.granularity)


@dataclass(frozen=True)
class NoiseBand:
    """The noise of every panel figure on one base model and machine."""

    base_digest: str
    panel_digest: str
    machine: Mapping[str, str]
    copies: int
    seed: int
    figures: Mapping[str, FigureNoise] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """False for an assumed band."""
        return self.copies > 0

    @property
    def key(self) -> str:
        """What it was measured for, as one digest: base weights, panel and machine."""
        return noise_key(self.base_digest, self.panel_digest, self.machine)

    def of(self, name: str, *, items: int = 0, value: float = math.nan) -> FigureNoise:
        """The noise of a figure; assumed from its number of items where it was not measured."""
        found = self.figures.get(name)
        if found is not None:
            return found
        if name == "loss":
            return FigureNoise(value, math.nan, ASSUMED_LOSS * value, 0.0)
        one = 1.0 / items if items else 0.0
        return FigureNoise(value, math.nan, one, one, ASSUMED_FLIPS)

    def to_dict(self) -> dict[str, Any]:
        """The band as JSON-ready values."""
        return {
            "base_digest": self.base_digest,
            "panel_digest": self.panel_digest,
            "machine": dict(self.machine),
            "copies": self.copies,
            "seed": self.seed,
            "figures": {
                name: {
                    "mean": noise.mean,
                    "deviation": noise.deviation,
                    "band": noise.band,
                    "granularity": noise.granularity,
                    "flips": noise.flips,
                }
                for name, noise in self.figures.items()
            },
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> NoiseBand:
        """The band that :meth:`to_dict` gave."""
        return cls(
            record["base_digest"],
            record["panel_digest"],
            dict(record["machine"]),
            int(record["copies"]),
            int(record["seed"]),
            {name: FigureNoise(**noise) for name, noise in record["figures"].items()},
        )

    @classmethod
    def assumed(cls, base_digest: str = "", panel_digest: str = "") -> NoiseBand:
        """A band that was not measured: one item a part, 0.1% of the loss."""
        return cls(base_digest, panel_digest, {}, 0, 0, {})


def measure_noise(
    loaded: Weights,
    engine: ExamEngine,
    panel: Panel,
    *,
    copies: int = 8,
    seed: int = 0,
    parts: Collection[str] | None = None,
    reference: PanelResult | None = None,
    on_copy: Callable[[int, int], None] | None = None,
) -> NoiseBand:
    """Measure the noise band on the weights that are loaded now; they are put back bit for bit.

    Args:
        loaded: the model whose weights are perturbed.
        engine: an engine over the same model.
        panel: what is run on every copy.
        copies: number of perturbed copies; at least 2.
        seed: of the perturbations.
        parts: only these parts of the panel ("loss" is one); the others get an assumed band.
        reference: the panel's result on the unperturbed weights, if there is one already.
        on_copy: called with (copies done, copies) after each.
    """
    if copies < 2:
        raise ValueError("a spread needs at least 2 copies")
    original = {name: tensor.detach().clone() for name, tensor in loaded.weights().items()}
    state = str(getattr(engine, "state_digest", ""))
    plain = reference or run_panel(engine, panel, parts=parts)
    results = []
    try:
        for copy in range(copies):
            loaded.set_weights(_perturbed(original, f"{seed}:{copy}"))
            _tell(engine, f"{state}+noise-{seed}-{copy}")
            results.append(run_panel(engine, panel, parts=parts))
            if on_copy is not None:
                on_copy(copy + 1, copies)
    finally:
        loaded.set_weights(original)
        _tell(engine, state)
    return NoiseBand(
        loaded.base_digest,
        panel.digest,
        machine_fingerprint(),
        copies,
        seed,
        {name: _noise(name, plain, results) for name in results[0].figures()},
    )


def _noise(name: str, plain: PanelResult, results: list[PanelResult]) -> FigureNoise:
    values = [result.figures()[name] for result in results]
    spread = deviation(values)
    if name == "loss":
        return FigureNoise(mean(values), spread, 2 * spread, 0.0)
    base = plain.outcomes(name)
    flips = [
        sum(base[item] != passed for item, passed in result.outcomes(name).items()) / len(base)
        for result in results
    ]
    return FigureNoise(mean(values), spread, 2 * spread, 1 / len(base), mean(flips))


def _perturbed(weights: Mapping[str, Any], seed: str) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(int(canonical_digest(seed)[:15], 16))
    changed = {}
    for name in sorted(weights):
        tensor = weights[name]
        if not tensor.is_floating_point():
            changed[name] = tensor
            continue
        # Drawn on the CPU in float32, so that every device and type sees the same copies.
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        factor = (1.0 + RELATIVE_SIZE * noise).to(tensor.device)
        changed[name] = (tensor.float() * factor).to(tensor.dtype)
    return changed


def _tell(engine: ExamEngine, state: str) -> None:
    """Tell an engine with a cache that its weights changed."""
    set_state = getattr(engine, "set_state", None)
    if set_state is not None:
        set_state(state)


# ---------------------------------------------------------------------------- the machine
@lru_cache(maxsize=1)
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_fingerprint() -> dict[str, str]:
    """What can change the last bits of a result: processor, library, threads, device."""
    import torch

    from engrain.model import kernels

    override = overridden_compute()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count() or 0),
        "kernels": kernels.name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        **({"compute": override} if override else {}),
    }


def noise_key(base_digest: str, panel_digest: str, machine: Mapping[str, str]) -> str:
    """The key under which a band is kept."""
    return canonical_digest([base_digest, panel_digest, dict(machine)])
