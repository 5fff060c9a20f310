"""What the exam measures once and keeps on disk: the panel's results, and its noise band.

Both depend on the weights and the panel alone, the noise on the machine, too. A file that is
missing or damaged is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engrain.exam.noise import NoiseBand, machine_fingerprint, noise_key
from engrain.exam.panel import Panel, PanelResult


@dataclass(frozen=True)
class Kept:
    """The measurements of one panel and base model in a folder: ``panels/`` and ``noise/``."""

    folder: Path
    panel: Panel
    base_digest: str

    def result(self, state: str) -> PanelResult | None:
        """The panel's result on a state of the weights, if it was kept."""
        known = read_measured(self._result_path(state))
        return PanelResult.from_dict(known) if known else None

    def keep_result(self, state: str, result: PanelResult) -> None:
        """Keep a panel's result on a state, so that the next lesson need not run it again."""
        keep_measured(self._result_path(state), result.to_dict())

    def _result_path(self, state: str) -> Path:
        return self.folder / "panels" / f"{state[:32]}-{self.panel.digest[:16]}.json"

    def noise(self) -> NoiseBand | None:
        """The noise band on this machine, if it was kept."""
        known = read_measured(self.noise_path)
        return NoiseBand.from_dict(known) if known else None

    def keep_noise(self, band: NoiseBand) -> None:
        """Keep the noise band on this machine."""
        keep_measured(self.noise_path, band.to_dict())

    @property
    def noise_path(self) -> Path:
        """The file of the noise band."""
        key = noise_key(self.base_digest, self.panel.digest, machine_fingerprint())
        return self.folder / "noise" / f"{key[:32]}.json"


def read_measured(path: Path) -> dict[str, Any]:
    """What a file of measurements holds; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep_measured(path: Path, record: Mapping[str, Any]) -> None:
    """Keep a measurement whole or not at all; where it can't be kept, it is made again."""
    temporary = path.with_suffix(".part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)
