"""The experiments: alike natively and in NumPy, their findings, their pictures and their command."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastnn
from native import PYTHON

pytest.importorskip("sklearn", reason="the experiments take their digits from scikit-learn")
pytest.importorskip("matplotlib", reason="the experiments draw with matplotlib")

import matplotlib
from PIL import Image

from fastnn import __main__ as command_line
from fastnn import experiments
from fastnn.experiments import (
    activation_histograms,
    batch_norm,
    command,
    digits,
    dropout,
    embedding,
    initial_values,
    learning_rate_decay,
    narrowing_search,
    optimizer_losses,
    optimizer_paths,
    ppo,
    style,
    weight_decay,
)

ROOT = Path(__file__).parents[1]
NAMES = tuple(experiments.EXPERIMENTS)
TRAINED = {"epochs": 2, "width": 12}
TINY = {
    "optimizer_paths": {"steps": 8},
    "optimizer_losses": TRAINED | {"seeds": 2},
    "activation_histograms": {"rows": 30, "width": 20, "layers": 3},
    "initial_values": TRAINED | {"seeds": 2},
    "batch_norm": TRAINED | {"scales": 5},
    "weight_decay": TRAINED | {"seeds": 2},
    "dropout": TRAINED | {"seeds": 2},
    "learning_rate_decay": TRAINED | {"seeds": 2},
    "narrowing_search": TRAINED | {"rounds": 2, "trials": 6},
    "embedding": {"vocabularies": (10, 40), "tokens": 8, "dim": 3, "repeats": 2},
    "ppo": {"steps": 640, "seeds": 2, "settings": ppo.Settings(n_steps=64), "peer": False},
}


def run_tiny(name, lib=fastnn, **more):
    if name == "ppo":
        pytest.importorskip("gymnasium")
    return experiments.EXPERIMENTS[name].run(lib, **TINY[name], **more)


def numbers(results):
    """Return all numbers in results, which may be nested, as arrays."""
    if isinstance(results, dict):
        results = results.values()
    if isinstance(results, (np.ndarray, float)):
        return [np.asarray(results)]
    return [array for part in results for array in numbers(part)]


# All of them


@pytest.mark.parametrize("lib", [fastnn, fastnn.reference], ids=["native", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_and_draws(name, lib, tmp_path):
    experiment = experiments.EXPERIMENTS[name]
    results = run_tiny(name, lib)
    finding = experiment.finding(results)
    before = dict(matplotlib.rcParams)
    figure = experiment.draw(results)
    assert dict(matplotlib.rcParams) == before
    assert figure.texts[0].get_text() == finding
    figure.draw_without_rendering()
    assert all(text.get_window_extent().x1 < figure.bbox.x1 for text in figure.texts), "a title has a line"
    assert not figure.axes[0].spines["top"].get_visible(), "in style"
    style.save(figure, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.format == "PNG"
        assert image.width == round(style.DPI * style.WIDTH)
        assert image.mode == "P", "256 colours"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels[0] == 255).all()
    assert 0.005 < (pixels != 255).any(axis=1).mean() < 0.5, "empty, or dark"


@pytest.mark.parametrize("name", NAMES)
def test_axes_are_labelled(name):
    figure = experiments.EXPERIMENTS[name].draw(run_tiny(name))
    figure.draw_without_rendering()
    for ax in figure.axes:
        grid = ax.get_subplotspec()
        if grid.is_last_row():
            assert ax.get_xlabel()
        if grid.is_first_col():
            assert ax.get_ylabel() or ax.get_title("left"), "the title of a panel may say what it shows"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("optimizer_paths", "embedding", "ppo")]
)
def test_native_and_reference_agree(name):
    """In float64 rounding is all that can differ between trainings from the same seed."""
    native, reference = (numbers(run_tiny(name, lib, dtype=np.float64)) for lib in (fastnn, fastnn.reference))
    assert len(native) == len(reference) > 0
    for a, b in zip(native, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["activation_histograms", "initial_values", "learning_rate_decay"])
def test_the_dtype_matters(name):
    narrow, wide = (numbers(run_tiny(name, dtype=dtype)) for dtype in (np.float32, np.float64))
    assert any((a != b).any() for a, b in zip(narrow, wide, strict=True))


@pytest.mark.parametrize("name", ["optimizer_losses", "dropout"])
def test_seeds_differ(name):
    for curves in run_tiny(name).values():
        for figures in curves[:2]:
            assert figures.shape == (2, 2)
            assert (figures[0] != figures[1]).all()


# What they find


def test_optimizer_paths():
    native, reference = (optimizer_paths.run(lib) for lib in (fastnn, fastnn.reference))
    for name, path in native.items():
        assert path.shape == (31, 2)
        np.testing.assert_allclose(path, reference[name], rtol=1e-12, atol=1e-14)
    steps = np.arange(31)
    exact = np.stack([-7 * (1 - 0.95 / 10) ** steps, 2 * (1 - 2 * 0.95) ** steps], axis=1)
    np.testing.assert_allclose(native["SGD"], exact, rtol=1e-12)
    assert optimizer_paths.crossings(native["SGD"]) == 30
    assert optimizer_paths.crossings(native["AdaGrad"]) == 0
    heights = {name: optimizer_paths.height(*path[-1]) for name, path in native.items()}
    assert max(heights.values()) < 0.2 < optimizer_paths.height(*optimizer_paths.START)
    assert "30 of 30 steps, AdaGrad in none" in optimizer_paths.finding(native)


def test_optimizer_losses():
    results = optimizer_losses.run(epochs=12, seeds=1, width=50)
    losses = {name: curves.loss[0, -1] for name, curves in results.items()}
    assert losses.pop("SGD") > 3 * max(losses.values())
    assert set(losses) == {"Momentum", "AdaGrad", "RMSProp", "Adam"}


@pytest.mark.parametrize("name", optimizer_losses.RATES)
def test_an_optimizer_has_its_rate(monkeypatch, name):
    monkeypatch.setitem(optimizer_losses.RATES, name, 0.0)
    results = optimizer_losses.run(**TINY["optimizer_losses"])
    still = {
        name for name, curves in results.items() if (curves.test_loss[:, 0] == curves.test_loss[:, 1]).all()
    }
    assert still == {name}


def test_activation_histograms():
    signals = activation_histograms.run()
    kept = {key: activation_histograms.kept(values) for key, values in signals.items()}
    assert 0.7 < kept["ReLU", "He"] < 1.4
    assert kept["ReLU", "Xavier"] < 0.3
    assert kept["ReLU", "std 0.01"] < 1e-4
    assert kept["ReLU", "std 1"] > 1e3
    assert kept["Tanh", "std 0.01"] < 1e-3
    assert kept["Tanh", "Xavier"] > 0.4
    saturated = signals["Sigmoid", "std 1"][-1]
    assert ((saturated < 0.1) | (saturated > 0.9)).mean() > 0.7
    assert (np.abs(signals["Sigmoid", "std 0.01"][-1] - 0.5) < 0.1).all()


def test_initial_values():
    results = initial_values.run(epochs=12, seeds=1)
    losses = {key: curves.loss[0, -1] for key, curves in results.items()}
    for activation in ("relu", "tanh"):
        assert losses[activation, "std 0.01"] == pytest.approx(np.log(10), rel=0.01), "it learns nothing"
    assert losses["relu", "He"] < 0.5 * losses["relu", "Xavier"]
    assert losses["tanh", "Xavier"] < 0.5


def test_batch_norm_learns_where_a_plain_network_does_not():
    results = batch_norm.run(scales=6)
    np.testing.assert_allclose(results.scales[[0, -1]], [1, 1e-4])
    assert batch_norm.learned(results.batch_norm) >= 5
    assert batch_norm.learned(results.plain) <= 1
    assert (results.plain[[0, -1], -1] < 0.15).all(), "it overflows at one end and is silent at the other"


@pytest.mark.parametrize("lib", [fastnn, fastnn.reference], ids=["native", "reference"])
def test_a_network_that_overflows_is_followed(lib):
    results = batch_norm.run(lib, epochs=2, scales=1)
    assert results.plain[0] == pytest.approx([0.1, 0.1], abs=0.03)


def test_weight_decay_narrows_the_gap():
    without, decayed = weight_decay.run(epochs=80, seeds=2).values()
    assert weight_decay.gap(decayed) < 0.85 * weight_decay.gap(without)
    assert decayed.train_loss[:, -1].mean() > without.train_loss[:, -1].mean()
    assert (without.train_accuracy[:, -1] == 1).all()
    assert without.test_accuracy[:, -1].max() < 0.95, "there is something to overfit"


def test_dropout_helps():
    without, dropped = dropout.run(epochs=100, seeds=3).values()
    assert dropped.test_accuracy[:, -1].mean() > without.test_accuracy[:, -1].mean() + 0.005
    assert dropped.loss[:, -1].mean() > dropped.train_loss[:, -1].mean(), "training drops, looking does not"


def test_learning_rate_decay():
    results = learning_rate_decay.run(epochs=12, seeds=1)
    losses = {name: result.curves.loss[0, -1] for name, result in results.items()}
    assert losses.pop("constant") > 3 * max(losses.values())
    assert (results["constant"].rates == 0.2).all()
    for name in losses:
        rates = results[name].rates
        assert rates[-1] < 0.1 * 0.2
        assert (np.diff(rates)[len(rates) // 10 :] <= 0).all(), name


def test_narrowing_search():
    rounds = narrowing_search.run(rounds=3, trials=15, epochs=5, width=30)
    medians = [np.median([trial.accuracy for trial in r.trials]) for r in rounds]
    assert medians[0] < medians[1] <= medians[2]
    assert rounds[0].ranges == narrowing_search.RANGES
    for before, after in pairwise(rounds):
        best = sorted(before.trials, key=lambda trial: trial.accuracy, reverse=True)[:3]
        for name, (low, high) in after.ranges.items():
            assert (low, high) == (
                min(trial.values[name] for trial in best),
                max(trial.values[name] for trial in best),
            )
            assert all(low <= trial.values[name] <= high for trial in after.trials)
            assert before.ranges[name][0] <= low < high <= before.ranges[name][1]


def test_another_sampler():
    seen = []

    def sampler(ranges, trials, rng):
        seen.append(len(trials))
        return {name: low * (1 + len(trials)) for name, (low, _) in ranges.items()}

    rounds = narrowing_search.run(rounds=2, trials=3, epochs=1, width=5, sampler=sampler)
    assert seen == [0, 1, 2] * 2
    assert [trial.values["lr"] for trial in rounds[0].trials] == pytest.approx([1e-6, 2e-6, 3e-6])


def test_log_uniform_draws():
    rng = np.random.default_rng(0)
    draws = [narrowing_search.log_uniform({"a": (1e-6, 1.0)}, [], rng)["a"] for _ in range(2000)]
    shares, _ = np.histogram(np.log10(draws), 6, (-6, 0))
    assert shares.sum() == 2000
    assert shares.min() > 0.8 * 2000 / 6


def test_embedding_costs_less_than_the_product():
    results = embedding.run(vocabularies=(100, 10000), repeats=5)
    assert results.product_forward[-1] > 10 * results.gather_forward[-1]
    assert results.product_update[-1] > 10 * results.gather_update[-1]


class WrongForward(fastnn.Embedding):
    def forward(self, x, train=True):
        return super().forward(x, train) + np.float32(1e-6)


class WrongBackward(fastnn.Embedding):
    def backward(self, dout):
        super().backward(dout * np.float32(1.01))


@pytest.mark.parametrize("wrong", [WrongForward, WrongBackward])
def test_embedding_asserts_that_it_is_the_product(wrong):
    lib = SimpleNamespace(Affine=fastnn.Affine, Embedding=wrong, SGD=fastnn.SGD)
    with pytest.raises(AssertionError):
        embedding.run(lib, **TINY["embedding"])


def test_the_digits_are_the_demos():
    everything, few = digits.read(), digits.read(100)
    assert everything.x_train.shape == (1437, 64)
    assert len(everything.t_test) == 360
    assert len(few.x_train) == 100
    np.testing.assert_array_equal(few.x_train, everything.x_train[:100])
    np.testing.assert_array_equal(
        np.concatenate((few.t_train, few.t_test)), np.concatenate((everything.t_train, everything.t_test))
    )


def test_labels_of_lines_do_not_touch():
    _, ((ax,),) = style.frame("title", "note")
    ax.plot([0, 1], [0, 1])
    style.label_ends(ax, {"a": (1, 0.5, "black"), "b": (1, 0.51, "black"), "c": (1, 1, "black")}, 0.1)
    a, b, c = (text.get_position()[1] for text in ax.texts)
    assert a + 0.1 == pytest.approx(b)
    assert c > b + 0.2


# The command


@pytest.fixture
def small(monkeypatch):
    """Make every experiment of the command tiny, and return the calls, (name, library, options)."""
    calls = []

    def tiny(name):
        real = experiments.EXPERIMENTS[name]

        def run(lib, **options):
            calls.append((name, lib, *options.items()))
            return real.run(lib, **TINY[name], **options)

        return SimpleNamespace(run=run, finding=real.finding, draw=real.draw, __doc__=real.__doc__)

    for name in NAMES:
        monkeypatch.setitem(experiments.EXPERIMENTS, name, tiny(name))
    return calls


def test_all_by_default(tmp_path, capsys, small):
    pytest.importorskip("gymnasium")
    folder = tmp_path / "new" / "pictures"
    assert command_line.main(["experiments", "--out", str(folder)]) == 0
    assert small == [(name, fastnn) for name in NAMES]
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in NAMES}
    assert capsys.readouterr().out.count("\n") == len(NAMES)


def test_named_ones_by_reference(tmp_path, capsys, small):
    names = ["batch_norm", "dropout", "batch_norm"]
    assert command.main([*names, "--reference", "--out", str(tmp_path)]) == 0
    assert small == [("batch_norm", fastnn.reference), ("dropout", fastnn.reference)]
    assert re.fullmatch(
        r".*batch_norm\.png +\d+\.\d s  BatchNorm.+\n.*dropout\.png.+\n", capsys.readouterr().out
    )


def test_all_that_can_run(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert command.main(["--out", str(tmp_path)]) == 0
    able = {"optimizer_paths", "activation_histograms", "embedding"}
    assert {path.stem for path in tmp_path.iterdir()} == able
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if " is left out: " in line} == set(NAMES) - able
    assert "ppo is left out: the environments need gymnasium: pip install 'fastnn-cpu[rl]'" in lines


def test_another_environment(tmp_path, capsys, small):
    pytest.importorskip("gymnasium")
    arguments = ["ppo", "optimizer_paths", "--environment", "Acrobot-v1", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert small == [("ppo", fastnn, ("environment", "Acrobot-v1")), ("optimizer_paths", fastnn)]
    assert "ppo.png" in capsys.readouterr().out


def test_an_environment_that_is_not_there(tmp_path, capsys, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "'CartPole-v99'" in failure(capsys, "ppo", "--environment", "CartPole-v99", "--out", tmp_path)


def test_a_process(tmp_path):
    result = subprocess.run(
        [*PYTHON, "-m", "fastnn", "experiments", "optimizer_paths"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "SGD crosses the valley" in result.stdout
    assert (tmp_path / "fastnn-experiments" / "optimizer_paths.png").is_file()


def test_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all(len(line.split()) > 4 for line in lines)
    assert list(tmp_path.iterdir()) == []


def failure(capsys, *arguments):
    """Return the one line with which the command refuses these arguments."""
    assert command.main([str(argument) for argument in arguments]) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(r"fastnn experiments: .+\n", error)
    return error


def test_an_unknown_name_runs_nothing(tmp_path, capsys, small):
    error = failure(capsys, "dropout", "drop_out", "--out", tmp_path / "new")
    assert "'drop_out'" in error
    assert all(name in error for name in NAMES)
    assert small == []
    assert not (tmp_path / "new").exists()


def test_missing_matplotlib(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'fastnn-cpu[plot]'" in failure(capsys, "dropout", "--out", tmp_path / "new")
    assert small == [], "training would be for nothing"
    with pytest.raises(ImportError, match=r"fastnn-cpu\[plot\]"):
        optimizer_paths.draw(optimizer_paths.run())


def test_missing_digits(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'fastnn-cpu[demo]'" in failure(capsys, "dropout", "--out", tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path, capsys, small):
    (tmp_path / "file").write_text("")
    assert "file" in failure(capsys, "dropout", "--out", tmp_path / "file")
    assert small == []


# The gallery


def test_the_gallery_shows_every_experiment():
    pictures = {path.name: path for path in (ROOT / "docs" / "gallery").iterdir()}
    assert set(pictures) == {f"{name}.png" for name in NAMES}
    pages = [(ROOT / "docs" / page).read_text() for page in ("gallery.md", "zh/gallery.md")]
    for name, path in pictures.items():
        assert path.stat().st_size < 150e3
        assert all(f"gallery/{name})" in page for page in pages)
        assert all(f"experiments/{path.stem}.py" in page for page in pages)
