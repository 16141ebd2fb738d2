"""The demo and the command line, as their users run them."""

import gzip
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

import fastnn
from fastnn import __main__ as command_line

pytest.importorskip("sklearn", reason="the demo takes its digits from scikit-learn")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
pytest.importorskip("tqdm", reason="the demo shows its progress with tqdm")

from fastnn import demo
from native import PYTHON


def run(*arguments, cwd):
    """Run `python -m fastnn` as a process of its own, in `cwd`."""
    return subprocess.run(
        [*PYTHON, "-m", "fastnn", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def figures(report, name):
    """Return the two numbers in the report's row of that name."""
    row = re.search(rf"^ +{name} +([\d.]+)%? +([\d.]+)%?", report, re.MULTILINE)
    assert row, report
    return float(row[1]), float(row[2])


def differences(report):
    """Return the relative differences of the loss curves: of the first epoch, of all."""
    return [
        float(number) for number in re.findall(r"^ +(\S+) in (?:the first epoch|all)", report, re.MULTILINE)
    ]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def idx(array):
    """Return the bytes of an IDX file of uint8."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """Return a directory with four files like those of MNIST, two of them gzipped, of images easy to tell."""
    directory = tmp_path / "mnist"
    directory.mkdir()
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 200, (10, 28, 28))
    for part, n in (("train", 200), ("t10k", 50)):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = (kinds[labels] + rng.integers(0, 56, (n, 28, 28))).astype(np.uint8)
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (directory / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return directory


@pytest.fixture
def fails(tmp_path, capsys):
    """Return a function that checks that the demo fails with one line, status 2 and no picture."""

    def check(*arguments):
        out = tmp_path / "picture.png"
        assert demo.main(["--epochs", "1", "--out", str(out), *map(str, arguments)]) == 2
        output, error = capsys.readouterr()
        assert output == ""
        assert re.fullmatch(r"fastnn demo: .+\n", error), error
        assert not out.exists()
        return error

    return check


def test_full_demo(tmp_path, capsys):
    out = tmp_path / "picture.png"
    assert demo.main(["--out", str(out)]) == 0
    report, progress = capsys.readouterr()
    native, reference = figures(report, "test accuracy")
    assert min(native, reference) >= 97
    assert abs(native - reference) <= 1
    first, whole = differences(report)
    assert first < 1e-4
    assert whole < 0.05
    assert png_size(out) == (1600, 900)
    assert "690/690" in progress


def test_digits_in_a_process(tmp_path):
    result = run("demo", "--epochs", 3, "--seed", 1, "--threads", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    native, reference = figures(result.stdout, "test accuracy")
    assert min(native, reference) > 90
    assert abs(native - reference) <= 0.6  # two images
    loss, reference_loss = figures(result.stdout, "last epoch loss")
    assert loss == pytest.approx(reference_loss, rel=1e-2)
    first, whole = differences(result.stdout)
    assert first < 1e-4
    assert whole < 1e-2
    seconds, reference_seconds = figures(result.stdout, "seconds")
    speed, reference_speed = figures(result.stdout, "samples a second")
    assert speed * seconds == pytest.approx(reference_speed * reference_seconds, rel=0.2)
    times = float(re.search(r"([\d.]+) times as fast", result.stdout)[1])
    assert times == pytest.approx(reference_seconds / seconds, abs=0.06 + 0.01 * times / seconds)
    assert png_size(tmp_path / "fastnn-demo.png") == (1600, 900)


def test_mnist_in_a_process(tmp_path, mnist):
    result = run("demo", "--mnist", mnist, "--epochs", 4, "--out", "four.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "784-512-256-10" in result.stdout
    assert "200 images to train, 50 to test; 4 epochs of 2 steps" in result.stdout
    native, reference = figures(result.stdout, "test accuracy")
    assert native == pytest.approx(reference, abs=2.01)  # one image
    assert max(differences(result.stdout)) < 1e-3
    assert png_size(tmp_path / "four.png") == (1600, 900)


def test_mnist_is_read_alike_gzipped_or_not(mnist):
    zipped = demo.read_mnist(str(mnist))
    for path in mnist.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = demo.read_mnist(str(mnist))
    for a, b in zip(zipped, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain.x_train.shape == (200, 784)
    assert plain.x_train.dtype == plain.x_test.dtype == np.float32
    assert 0 <= plain.x_train.min() < plain.x_train.max() <= 1


def test_the_same_function_trains_both():
    task = demo.read_digits()._replace(epochs=2)
    assert len(task.x_train) == 1437
    assert len(task.x_test) == 360
    native, again, reference = (demo.train(lib, task, seed=3) for lib in (fastnn, fastnn, fastnn.reference))
    np.testing.assert_array_equal(native.history.loss, again.history.loss)
    np.testing.assert_allclose(native.history.loss, reference.history.loss, rtol=1e-3)
    assert (native.predicted == reference.predicted).mean() > 0.99


def test_mnist_missing_directory(fails, tmp_path):
    assert "train-images" in fails("--mnist", tmp_path / "nowhere")


def test_mnist_missing_file(fails, mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels" in fails("--mnist", mnist)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"])
def test_mnist_truncated_file(fails, mnist, name):
    path = mnist / name
    path.write_bytes(path.read_bytes()[:-9])
    error = fails("--mnist", mnist)
    assert name in error
    assert "truncated" in error


def test_mnist_wrong_magic(fails, mnist):
    path = mnist / "train-labels-idx1-ubyte"
    path.write_bytes(b"\x89PNG" + path.read_bytes()[4:])
    error = fails("--mnist", mnist)
    assert path.name in error
    assert "not an IDX file" in error


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (np.zeros((3, 28, 28), np.uint8), np.full(3, 10, np.uint8), "square images"),
        (
            np.zeros((3, 28, 27), np.uint8),
            np.zeros(3, np.uint8),
            "images of 784 pixels and t10k images of 756",
        ),
        (np.zeros((3, 8, 8), np.uint8), np.zeros(3, np.uint8), "images of 784 pixels and t10k images of 64"),
        (np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8), "square images"),
    ],
    ids=["label 10", "not square", "another size", "empty"],
)
def test_mnist_of_other_images(fails, mnist, images, labels, complaint):
    (mnist / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    assert complaint in fails("--mnist", mnist)


def test_errors_of_a_process_are_one_line(tmp_path):
    result = run("demo", "--mnist", "nowhere", cwd=tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(r"fastnn demo: .+\n", result.stderr)


@pytest.mark.parametrize("module", ["sklearn", "matplotlib", "tqdm"])
def test_missing_extra(fails, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    error = fails()
    assert demo.EXTRAS[module] in error
    assert "pip install 'fastnn-cpu[demo]'" in error


def test_picture_in_no_directory(fails, tmp_path):
    assert "nowhere" in fails("--out", tmp_path / "nowhere" / "picture.png")


def test_picture_that_cannot_be_written(tmp_path, capsys, mnist):
    assert demo.main(["--mnist", str(mnist), "--epochs", "1", "--out", str(tmp_path)]) == 2
    output, error = capsys.readouterr()
    assert "test accuracy" in output
    assert re.fullmatch(r"fastnn demo: .+", error.splitlines()[-1])


def test_interrupted_demo_draws_nothing(tmp_path, monkeypatch):
    history = fastnn.History()
    history.interrupted = True
    monkeypatch.setattr(demo, "train", lambda *args, **options: demo.Run(history, 1.0, np.zeros(0)))
    assert demo.main(["--out", str(tmp_path / "picture.png")]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("--epochs", "0"), ("--epochs", "x"), ("--seed", "-1"), ("--seed", str(2**64)), ("--threads", "0")],
)
def test_arguments_are_checked(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_info(tmp_path):
    result = run("info", cwd=tmp_path)
    assert result.returncode == 0
    assert re.search(rf"^isa +{fastnn.show_config()['isa']}$", result.stdout, re.MULTILINE)
    assert fastnn.__version__ in result.stdout


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("demo", "experiments", "info"):
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE)


def test_help_of_a_command(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["demo", "--help"])
    assert stop.value.code == 0
    assert "--mnist" in capsys.readouterr().out


def test_nothing_asked_is_answered_with_help(capsys):
    assert command_line.main([]) == 0
    assert "commands:" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"fastnn {fastnn.__version__}"


@pytest.mark.parametrize("arguments", [["dance"], ["info", "more"]])
def test_wrong_command(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m fastnn" in capsys.readouterr().err
