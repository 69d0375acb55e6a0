"""What pyproject.toml cannot say: the course travels in the wheel, as moe_numpy/course/, with no second copy in git."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
COURSE = ("notebooks/*.ipynb", "docs/*.md", "docs/figures/*.png")  # as in moe_numpy/commands/course.py
COURSE += ("tests/moe/mistakes.py", "benchmarks/figure.py", "benchmarks/results/*.json")


class BuildWithCourse(build_py):
    """Copies the notebooks, what they import and the pages that they link beside the package's modules."""

    def run(self):
        """Build as usual; an editable install needs no copy, since the checkout is there."""
        super().run()
        if self.editable_mode:
            return
        course = Path(self.build_lib) / "moe_numpy" / "course"
        shutil.rmtree(course, ignore_errors=True)  # build/ may hold a notebook of another name
        for file in sorted(file for shape in COURSE for file in HERE.glob(shape)):
            copy = course / file.relative_to(HERE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


setup(cmdclass={"build_py": BuildWithCourse})
