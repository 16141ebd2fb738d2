"""The house rules: who includes and imports whom, where threads and intrinsics are, what objects define."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fastnn
from fastnn import _core, reference
from fastnn import layers as native_layers
from fastnn import losses as native_losses
from fastnn import optimizers as native_optimizers

ROOT = Path(__file__).parents[1]
CPP = ROOT / "src" / "cpp"
PACKAGE = ROOT / "python" / "fastnn"

# C++

MAY_INCLUDE = {
    "core": {"core"},
    "simd": {"simd", "core"},
    "kernels": {"kernels", "simd", "core"},
    "dispatch": {"dispatch", "kernels", "core"},
    "ops": {"ops", "dispatch", "kernels", "core"},
    "network": {"network", "ops", "kernels", "core"},
    "bindings": {"bindings", "network", "ops", "dispatch", "kernels", "core"},
}
SOURCES = sorted([*CPP.rglob("*.h"), *CPP.rglob("*.cpp")])
INTRINSICS = re.compile(r"<(\w*mmintrin|immintrin|arm_\w+|x86\w*intrin)\.h>")


def room(path):
    return path.relative_to(CPP).parts[0]


def includes(path):
    return re.findall(r'^\s*#\s*include\s*([<"][^>"]+[>"])', path.read_text(), re.MULTILINE)


def test_the_sources_are_found():
    assert {room(path) for path in SOURCES} <= MAY_INCLUDE.keys()
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CPP)))
def test_includes(path):
    for name in includes(path):
        if name[0] == '"':
            target = CPP / name.strip('"')
            assert target.is_file(), f"{name} is not below src/cpp"
            assert room(target) in MAY_INCLUDE[room(path)], f"{path} includes {name}"
            outside = room(path) in ("dispatch", "ops", "network", "bindings")
            if room(target) == "kernels" and outside:
                assert name == '"kernels/table.h"', "the table is the kernels' only door"
        elif INTRINSICS.match(name):
            waiting = path.parent == CPP / "core" and path.name in ("clock.h", "subnormals.h")
            assert room(path) == "simd" or waiting, f"{path} includes {name}"
        elif "pybind11" in name or "Python.h" in name:
            assert room(path) == "bindings", f"{path} includes {name}"
        elif name == "<fastnn.h>":  # the public header
            assert "c_api" in path.parts, f"{path} includes {name}"
        elif name == "<omp.h>":
            raise AssertionError(f"{path}: OpenMP's runtimes are found, not linked")
        elif name.startswith(("<linux/", "<sys/syscall", "<link")):
            assert path == CPP / "core" / "system" / "linux.cpp", f"{path} includes {name}"
        elif name in ("<pthread.h>", "<thread>"):
            threaded = ("core/workers.cpp", "core/threads.h", "core/system/portable.cpp")
            assert str(path.relative_to(CPP)) in threaded, f"{path} includes {name}"


def test_kernels_use_no_part_of_the_standard_library_that_is_code():
    """Its templates could be linked from an object of a better instruction set into the baseline."""
    declarations_only = {"<cstdint>", "<cstddef>"}
    for path in SOURCES:
        if room(path) in ("simd", "kernels"):
            system = {name for name in includes(path) if name[0] == "<" and not INTRINSICS.match(name)}
            assert system <= declarations_only, path


def test_the_system_is_asked_in_one_file():
    asks = re.compile(r"\b(sched_getcpu|sched_[gs]etaffinity|syscall|cpu_set_t|dl_iterate_phdr)\b")
    found = [path for path in SOURCES if asks.search(path.read_text())]
    assert found == [CPP / "core" / "system" / "linux.cpp"]


def test_threads_are_made_in_one_file_and_by_no_region_of_openmp():
    text = {path: path.read_text() for path in SOURCES}
    assert not [path for path in SOURCES if re.search(r"pragma\s+omp", text[path])]
    assert [path for path in SOURCES if "pthread_create(" in text[path]] == [CPP / "core" / "workers.cpp"]


def test_kernels_are_in_the_namespace_of_their_target():
    for path in SOURCES:
        if room(path) in ("simd", "kernels") and path.name != "table.h":
            spaces = re.findall(r"^namespace ([\w:]+)", path.read_text(), re.MULTILINE)
            assert set(spaces) == {"fastnn::FASTNN_TARGET"} or path.name == "simd.h", path


# Object files


def recipe():
    """Return {isa: flags} and the flags of all, as CMakeLists.txt has them for this processor."""
    text = (ROOT / "CMakeLists.txt").read_text()
    flags = {
        name: value.replace('"', "").split()
        for name, value in re.findall(r"set\(FLAGS_(\w+) ([^)]*)\)", text)
    }
    common = re.search(r"add_compile_options\((-O[^)]*)\)", text).group(1).split()
    return {name: flags[name] for name in _core.isas_built()}, common


def compile_kernels(folder):
    flags, common = recipe()
    jobs = []
    for isa, extra in flags.items():
        target = folder / f"kernels_{isa}.dir"
        target.mkdir()
        for source in sorted((CPP / "kernels").glob("*.cpp")):
            command = ["c++", "-std=c++17", "-fPIC", "-fvisibility=hidden", *common, *extra, "-w", f"-I{CPP}"]
            command += [f"-DFASTNN_TARGET={isa}", "-fno-exceptions", "-fno-rtti"]
            jobs.append([*command, "-c", str(source), "-o", str(target / f"{source.name}.o")])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda job: subprocess.run(job, capture_output=True, text=True), jobs):
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The object files of the kernels: {isa: [paths]}, from a build if there is one, else compiled here."""
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    given = os.environ.get("FASTNN_BUILD_DIR")
    builds = (
        [Path(given)] if given else sorted((ROOT / "build").glob("*"), key=lambda path: path.stat().st_mtime)
    )
    kernels = len(list((CPP / "kernels").glob("*.cpp")))
    builds = [
        build
        for build in builds
        if all(len(list(build.rglob(f"kernels_{isa}.dir/**/*.o"))) >= kernels for isa in _core.isas_built())
    ]
    if not builds and not shutil.which("c++"):
        pytest.skip("neither a build nor a compiler is there")
    build = builds[-1] if builds else compile_kernels(tmp_path_factory.mktemp("kernels"))
    return {isa: sorted(build.rglob(f"kernels_{isa}.dir/**/*.o")) for isa in _core.isas_built()}


def symbols(path):
    """Return (type, demangled name) of what an object file shares with others."""
    listing = subprocess.run(["nm", "-C", "-g", str(path)], capture_output=True, text=True, check=True).stdout
    return [
        line.split(maxsplit=1 if line.startswith(" ") else 2)[-2:] for line in listing.splitlines() if line
    ]


@pytest.mark.parametrize("isa", _core.isas_built())
def test_an_object_defines_nothing_outside_its_namespace(objects, isa):
    names = {path.name for path in objects[isa]}
    assert len(names) >= len(list((CPP / "kernels").glob("*.cpp")))
    defined = 0
    for path in objects[isa]:
        for kind, name in symbols(path):
            if kind not in "Uw":
                defined += 1
                assert re.match(rf"(\w+ )?fastnn::{isa}::", name), f"{path.name} defines {name}"
    assert defined > 10


C_LIBRARY = {"memcpy", "memset", "memmove", "log", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.mark.parametrize("isa", _core.isas_built())
def test_an_object_takes_nothing_from_elsewhere_but_c(objects, isa):
    for path in objects[isa]:
        for kind, name in symbols(path):
            if kind in "Uw":
                own = re.match(rf"(\w+ )?fastnn::{isa}::", name)
                assert own or name in C_LIBRARY, f"{path.name} takes {name}"


def test_the_flags_are_read_right():
    flags, common = recipe()
    assert "-ffp-contract=off" in common
    assert not any("fast-math" in flag or "native" in flag for flag in sum(flags.values(), common))
    if "avx2" in flags:
        assert flags["avx2"] == ["-mavx2", "-mfma"]
        assert flags["baseline"] == []


# Python

NUMPY_ONLY = {
    *(
        "_checks",
        "_events",
        "_foreign",
        "_html",
        "_interrupts",
        "_progress",
        "callbacks",
        "checkpoint",
        "data",
    ),
    *("groups", "init", "metrics", "reference", "schedules", "sparse"),
}
OPTIONAL = {
    "tqdm",
    "safetensors",
    "sklearn",
    "scipy",
    "matplotlib",
    "PIL",
    "threadpoolctl",
    "typing_extensions",
    "optuna",
    "pandas",
    "gymnasium",
    "stable_baselines3",
    "torch",
    "mpi4py",
    *("onnx", "google", "keras", "h5py"),
}
FLOORS = {  # an import goes downwards
    **dict.fromkeys(NUMPY_ONLY, 0),
    "_core": 0,
    "cython": 1,
    "_load": 1,
    "_neighbours": 2,
    "_sharing": 1,
    "runtime": 3,
    "layers": 2,
    "losses": 3,
    "optimizers": 3,
    "network": 3,
    "joint": 4,
    "trainer": 4,
    "_together": 5,
    "population": 5,
    "_exchange": 5,
    "_lockstep": 6,
    "distributed": 7,
    "search": 6,
    "estimators": 6,
    "interchange": 5,
    "__init__": 8,
    "demo": 9,  # these four use the package as its users do
    "experiments": 10,
    "table": 10,
    "__main__": 11,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Return what a module imports: ("outside", name) or ("fastnn", part), "__init__" for a public name."""
    found = []
    here = ["fastnn", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [("outside", alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(("outside", node.module.split(".")[0]))
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] + (node.module.split(".") if node.module else [])
            names = [base[1]] if len(base) > 1 else [alias.name for alias in node.names]
            names = [name if name in FLOORS else "__init__" for name in names if name != "__version__"]
            found += [("fastnn", name) for name in names]
    return [("fastnn", "__init__") if name == "fastnn" else (kind, name) for kind, name in found]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    own = part(path)
    assert own in FLOORS, f"say on which floor {own} is"
    for kind, name in imports(path):
        if kind == "outside":
            assert name in sys.stdlib_module_names or name == "numpy" or name in OPTIONAL, f"imports {name}"
        elif own in NUMPY_ONLY:
            assert name in NUMPY_ONLY, f"imports {name}, which is native"
        else:
            assert name == own or FLOORS[name] < FLOORS[own], f"imports {name}, upwards"


def test_optional_packages_are_imported_where_they_are_used():
    """At the top of a module they would be required of everyone; `estimators` is for those who have one.

    So are the rooms of `interchange`, which are named after what they need; its doors open them.
    """
    for path in MODULES:
        if part(path) == "estimators" or (part(path) == "interchange" and path.name != "__init__.py"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "level", 0) == 0:
                module = node.names[0].name if isinstance(node, ast.Import) else node.module
                assert module.split(".")[0] not in OPTIONAL, f"{path} imports {module}"


def test_the_reference_has_the_same_names_and_signatures():
    extra = {"__version__", "get_include", "reference", "search"}
    assert set(fastnn.__all__) - extra <= set(reference.__all__)
    assert set(reference.__all__) <= set(fastnn.__all__)
    for name in set(reference.__all__) & set(fastnn.__all__):
        ours, theirs = getattr(fastnn, name), getattr(reference, name)
        if not inspect.ismodule(ours) and name not in ("show_config",):
            assert parameters(ours) == parameters(theirs), name
            for method in ("create", "forward", "backward", "update", "step", "fit", "evaluate", "predict"):
                if hasattr(theirs, method):
                    assert parameters(getattr(ours, method)) == parameters(getattr(theirs, method)), (
                        name,
                        method,
                    )


def parameters(f):
    """Return names, kinds and defaults of the arguments; of a class, those of what makes it."""
    if inspect.isclass(f):
        init = f.__init__
        for base in f.__mro__:  # a constructor that passes everything on has the arguments of the next
            init = base.__dict__.get("__init__", init)
            if init is not object.__init__ and "args" not in inspect.signature(init).parameters:
                break
        f = init
    return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]


def native_classes():
    for module in (native_layers, native_losses):
        for name in module.__all__:
            if name != "Residual":  # which passes x on to its layers
                yield getattr(module, name), ("forward", "backward")
    yield native_layers.Affine, ("backward_params",)
    for cls in native_optimizers.CLASSES.values():
        yield cls, ("update",)
    yield fastnn.Trainer, ("_clip",)


@pytest.mark.parametrize(
    ("cls", "methods"), list(native_classes()), ids=lambda value: getattr(value, "__name__", None)
)
def test_native_classes_compute_natively(cls, methods):
    assert issubclass(cls, getattr(reference, cls.__name__))
    for method in methods:
        assert not getattr(cls, method).__module__.startswith("fastnn.reference"), f"{cls.__name__}.{method}"


def test_native_networks_are_made_of_native_parts():
    for table in (
        fastnn.Sequential.layer_classes,
        fastnn.Trainer.loss_classes,
        fastnn.Trainer.optimizer_classes,
    ):
        assert table
        assert all(not cls.__module__.startswith("fastnn.reference") for cls in table.values())
    net = fastnn.mlp([3, 4, 2], batch_norm=True, dropout=0.1, seed=0)
    assert all(type(layer).__module__ == "fastnn.layers" for layer in net.layers)
    assert fastnn.Sequential.layer_classes.keys() == reference.Sequential.layer_classes.keys()
