"""Compiles products.c when the package is built or installed, if that is possible; without it, torch computes.

It needs Linux on x86-64 and a C compiler: CC, or cc. A build never fails for lack of them.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, LIBRARY = "vllava_cli/engine/cpu/products.c", "vllava_cli/engine/cpu/libproducts.so"
FLAGS = ("-O3", "-mavx2", "-mfma", "-mf16c", "-fopenmp", "-fPIC", "-shared")


class CustomBuildHook(BuildHookInterface):
    """Adds the compiled products to the wheel, which then is for this platform, but for any Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        if self.target_name != "wheel" or sys.platform != "linux" or platform.machine() != "x86_64":
            return
        library = Path(self.root) / LIBRARY
        library.unlink(missing_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, *FLAGS, "-o", str(library), str(Path(self.root) / SOURCE), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as exc:
            self.app.display_warning(f"vllava: {compiler[0]} isn't here ({exc.strerror}); torch's products are used.")
            return
        if done.returncode:
            self.app.display_warning(f"vllava: torch's products are used; products.c can't be compiled:\n{done.stderr}")
            return
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data.update(pure_python=False, tag=f"py3-none-{tag}")
        build_data["artifacts"].append(LIBRARY)
