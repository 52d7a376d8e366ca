"""Runs CMake when the package is built; everything about the build itself is in CMakeLists.txt.

ROBUSTDML_KERNELS=0 pip install .   installs the pure-Python package: every operator runs its PyTorch reference.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds all libraries with CMake, into the package that is built and into this checkout."""

    def run(self) -> None:
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build = ROOT / "build" / tag
        # In the checkout too, so that `python -m robustdml_ext.run` from inside it finds the kernels.
        targets = {ROOT} if self.editable_mode else {ROOT, Path(self.build_lib).resolve()}
        try:
            # --fresh: the last build's isolated environment is gone, and with it the paths in the cache.
            subprocess.run(
                ["cmake", "--fresh", "-S", ROOT, "-B", build, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"],
                check=True,
            )
            subprocess.run(["cmake", "--build", build], check=True)
            for target in targets:
                subprocess.run(["cmake", "--install", build, "--prefix", target], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"robustdml_ext: the kernels did not compile ({error}).\n"
                "The compiler's own message is above (pip shows it with -v). To install without kernels, in pure "
                "Python:\n    ROBUSTDML_KERNELS=0 pip install ."
            ) from error

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "robustdml_ext" / "lib").glob("*")]


kernels = os.environ.get("ROBUSTDML_KERNELS", "1") != "0"
setup(
    # The one extension stands for all that CMake builds: it makes the wheel a platform wheel.
    ext_modules=[Extension("robustdml_ext.lib._build_facts", sources=[])] if kernels else [],
    cmdclass={"build_ext": CMakeBuild},
)
