"""Compiles the kernels while engrain is built or installed; without a compiler it goes on."""

from __future__ import annotations

import runpy
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsBuildHook(BuildHookInterface):
    """Runs src/engrain/model/kernels/build.py."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put what was made into the wheel."""
        script = runpy.run_path(f"{self.root}/src/engrain/model/kernels/build.py")
        names, why = script["build"]()
        if not names:
            self.app.display_warning(f"engrain's kernels were not compiled: {why}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [
            f"src/engrain/model/kernels/{script['library'](name).name}" for name in names
        ]
