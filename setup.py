"""Declared in pyproject.toml, but for this: a wheel holds the files of configs/ within the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/*.py to alignjax/configs/ of what is built; a clone has them beside the package."""

    def run(self) -> None:
        """Builds the package, then adds the files."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "alignjax", "configs")
        self.mkpath(str(folder))
        for file in sorted(Path(__file__).parent.glob("configs/*.py")):
            self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithConfigs})
