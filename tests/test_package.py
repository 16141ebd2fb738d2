"""What a user installs: dependencies, size, what an import costs."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import fastnn
from native import PYTHON

PACKAGE = Path(fastnn.__file__).parent


def run(code):
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_numpy_is_the_only_dependency():
    try:
        required = metadata.requires("fastnn-cpu") or []
    except metadata.PackageNotFoundError:
        pytest.skip("fastnn runs from its source tree, without metadata")
    plain = [r for r in required if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r).group() for r in plain] == ["numpy"]


def test_the_version_is_that_of_the_metadata():
    try:
        assert fastnn.__version__ == metadata.version("fastnn-cpu")
    except metadata.PackageNotFoundError:
        pytest.skip("fastnn runs from its source tree, without metadata")


def test_the_version_is_that_of_the_project():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', project, re.MULTILINE).group(1) == fastnn.__version__


def test_the_package_is_small():
    """The promise is a wheel of 5 MB; not even the files in it are."""
    files = [f for f in PACKAGE.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) < 5e6


def test_an_import_brings_numpy_and_little_else():
    before = set(run("import sys, numpy; print(*sys.modules)"))
    after = set(run("import sys, fastnn; print(*sys.modules)"))
    brought = {name.split(".")[0] for name in after - before}
    assert "fastnn" in brought
    assert not brought & {
        "sklearn",
        "scipy",
        "matplotlib",
        "tqdm",
        "safetensors",
        "threadpoolctl",
        "gzip",
        "optuna",
        "gymnasium",
    }
    assert len(after - before) < 60


def test_every_name_of_the_face_is_there_twice():
    """`fastnn.reference` has the names of `fastnn`."""
    own = {"reference", "search", "get_include", "__version__"}
    assert set(fastnn.__all__) - own == set(fastnn.reference.__all__)
    for name in fastnn.__all__:
        assert hasattr(fastnn, name)
        if name not in own:
            assert getattr(fastnn, name).__doc__


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


INSTALL = re.compile(r"pip install(?: -[\w-]+(?: [\w.=]+)?)*((?: (?:-e )?'?[\w.-]+(?:\[[\w,]+\])?'?)+)")
OTHERS = {"atheris", "cmake", "jax", "mpich", "ninja", "pybind11", "scikit-build-core", "torch"}


def test_every_install_line_names_this_package_and_extras_that_it_has():
    """Of documents, docstrings and messages: a name that is another's would install a stranger's package."""
    root = Path(__file__).parents[1]
    project = (root / "pyproject.toml").read_text()
    (name,) = re.findall(r'^name = "(.*)"', project, re.MULTILINE)
    extras = set(
        re.findall(r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1], re.MULTILINE)
    )
    texts = [root / "README.md", root / "CONTRIBUTING.md", *root.glob("docs/**/*.md"), *PACKAGE.rglob("*.py")]
    found = 0
    for path in texts:
        text = path.read_text()
        for what in [w for line in INSTALL.findall(text) for w in line.replace("-e ", "").split()]:
            package, _, wanted = what.strip("'").rstrip("]").partition("[")
            assert package in OTHERS | {".", name}, f"{path}: {what}"
            assert not wanted or set(wanted.split(",")) <= extras, f"{path}: {what}"
            found += 1
        for stranger, wanted in re.findall(r"\b(fastnn[\w-]*)\[([a-z,]+)\]", text):
            assert stranger == name, f"{path}: {stranger}[{wanted}]"
            assert set(wanted.split(",")) <= extras, f"{path}: {wanted}"
    assert found > 8
