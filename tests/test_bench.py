"""The benchmarks: their clock, their reports, their peers, and that each of them runs, with NumPy alone."""

import csv
import json
import math
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks limit the threads of NumPy with threadpoolctl")
pytest.importorskip("matplotlib", reason="the benchmarks draw with matplotlib")

sys.path.append(str(Path(__file__).parents[1]))  # bench is in the repository, not in the package

import fastnn
from bench import __main__ as command_line
from bench import (
    cases,
    distributed,
    epoch,
    estimators,
    guard,
    history,
    machine,
    memory,
    neighbours,
    numpy_peer,
    peers,
    predict,
    report,
    shapes,
    step,
)
from bench.timing import Times, time_interleaved

PACKAGES = {"PyTorch": "torch", "JAX": "jax", "scikit-learn": "sklearn"}


@pytest.fixture
def no_peers(monkeypatch):
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)
    assert peers.installed() == []


def test_the_model_of_a_step_on_many_ranks():
    """Half of 8 MB twice, at 1 GB/s, and two messages of 3 ms, after 10 ms of computing."""
    assert distributed.modelled(10e-3, 8e6, 2, 1e9, 3e-3) == pytest.approx(10e-3 + 8e-3 + 6e-3)
    assert distributed.modelled(10e-3, 8e6, 1, 1e9, 3e-3) == 10e-3


def same(seconds):
    return Times(seconds, seconds, seconds, seconds)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_slower_call_is_measured_slower(threads):
    x = np.ones(1000)
    calls = {"one": lambda: x.sum(), "ten": lambda: [x.sum() for _ in range(10)]}
    times = time_interleaved(calls, rounds=9, threads=threads)
    assert list(times) == list(calls)
    assert times["ten"].best > 2 * times["one"].best
    for t in times.values():
        assert 0 < t.best <= t.low <= t.median <= t.high
        assert t.spread >= 0


def test_turns_are_taken_and_announced():
    turns, called = [], []
    time_interleaved(
        {name: lambda name=name: (called.append(name), time.sleep(2e-3)) for name in "ab"},
        rounds=3,
        before=turns.append,
    )
    assert turns == list("ababab")
    assert called == list("aabb" + "ababab")  # two calls to warm up; then long ones, once a turn


def test_a_budget_makes_rounds_fewer():
    def turns(**options):
        taken = []
        time_interleaved({"a": lambda: time.sleep(2e-3)}, before=taken.append, **options)
        return len(taken)

    assert turns(rounds=5) == turns(rounds=5, budget=60) == 5
    assert turns(rounds=50, budget=0.02) < 11
    assert turns(rounds=50, budget=0) == 3
    assert turns(rounds=2, budget=0) == 2


def test_sweep_is_the_same_every_time_and_within_bounds():
    products = shapes.sweep(300)
    assert products == shapes.sweep(300)
    assert products[:8] == shapes.sweep(8)
    assert products != shapes.sweep(300, seed=1)
    assert len({product[:3] for product in products}) > 250
    assert {layout for *_, layout in products} == set(shapes.LAYOUTS)
    for m, n, k, _ in products:
        assert min(m, n, k) >= 1
        assert max(m, n, k) <= 2048
        assert 2 * m * n * k <= 2e9


def test_files_hold_the_rows(tmp_path):
    found = report.Report([{"a": 1, "b": "x"}, {"a": 2.5, "b": "y"}], ["all of it"])
    report.write_csv(found, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": "x"}, {"a": "2.5", "b": "y"}]
    report.write_json(found, {"NumPy": "2"}, tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content == {"setting": {"NumPy": "2"}, "summary": ["all of it"], "rows": found.rows}


def test_table_shows_what_it_is_told(capsys):
    rows = [{"name": "long enough", "us": 1234.5}, {"name": "b", "us": 0.012345}]
    report.show(report.Report(rows, ["the end"]))
    assert capsys.readouterr().out.splitlines() == [
        "       name      us",
        "long enough    1234",
        "          b  0.0123",
        "the end",
    ]
    report.show(report.Report(rows, ["the end"], shown=[]))
    assert capsys.readouterr().out == "the end\n"


def test_a_case_with_a_wrong_result_is_refused():
    with pytest.raises(AssertionError, match="fastnn"):
        cases.agree({"fastnn": [1.0, 2.001]}, [1.0, 2.0], 1e-4, 0)


def test_limits_of_the_machine_are_plausible():
    assert machine.fma_peak() > 1e8
    copied = machine.streaming(10_000, 1, 1)
    assert 0 < copied < machine.streaming(1_000_000, 1, 1)


def test_all_threads_are_confined_and_set_free():
    free, done = os.sched_getaffinity(0), threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        machine.confine(1)
        confined = [os.sched_getaffinity(thread) for thread in (0, other.native_id)]
        machine.confine()
        assert [len(cores) for cores in confined] == [1, 1]
        assert [os.sched_getaffinity(thread) for thread in (0, other.native_id)] == [free, free]
    finally:
        machine.confine()
        done.set()


@pytest.mark.parametrize("network", [*shapes.NETWORKS_QUICK, shapes.NETWORKS[0]], ids=lambda n: n.name)
def test_networks_are_counted(network):
    net = fastnn.mlp(network.sizes, batch_norm=network.batch_norm)
    assert network.parameters == sum(p.size for p in net.params.values())
    products = [2 * network.batch * W.size for name, W in net.params.items() if name.endswith("W")]
    assert network.flops == 3 * sum(products) - products[0]


def test_networks_have_names():
    assert shapes.NETWORKS[0].name == "64-32-10, batch 32, SGD"
    assert shapes.NETWORKS[4].name == "784-100x6-10, batch 100, SGD, dropout 0.2"
    names = {network.name for network in (*shapes.NETWORKS, *(shapes.scaled(*s) for s in shapes.STEPS))}
    assert len(names) == len(shapes.NETWORKS) + len(shapes.STEPS)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_numpy_by_hand_learns_what_the_reference_learns(optimizer, batch_norm, monkeypatch):
    monkeypatch.setattr(numpy_peer, "BLOCK", 100)
    network = shapes.Network((20, 12, 7, 4), 16, optimizer, batch_norm)
    trainer = peers.trainer(fastnn.reference, network, 1e-2)
    net = peers.net("NumPy by hand", network, 1e-2)
    rng = np.random.default_rng(0)
    for rows in (16, 5, 16):
        x, t = rng.standard_normal((rows, 20), np.float32), rng.integers(0, 4, rows)
        assert math.isclose(net.step(x, t), trainer.step(x, t), rel_tol=1e-5)
        if batch_norm:  # the gradient of a bias before it is rounding alone, of which Adam makes whole steps
            for b, name in zip(net.b, ("0.b", "3.b"), strict=False):
                b[:] = trainer.net.params[name]
    parts = {"W": iter(net.W), "b": iter(net.b), "gamma": iter(net.gamma), "beta": iter(net.beta)}
    for name, param in trainer.net.params.items():
        np.testing.assert_allclose(next(parts[name.split(".")[1]]), param, rtol=0, atol=2e-4, err_msg=name)
    norms = [layer for layer in trainer.net.layers if hasattr(layer, "running_var")]
    for (mean, var), layer in zip(net.running, norms, strict=True):
        np.testing.assert_allclose(mean, layer.running_mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(var, layer.running_var, rtol=1e-4, atol=1e-5)


def test_numpy_by_hand_drops_as_many_as_it_should():
    network = shapes.Network((20, 400, 4), 50, dropout=0.2)
    net = peers.net("NumPy by hand", network)
    x = np.random.default_rng(0).standard_normal((50, 20), np.float32)
    y = np.maximum(fastnn.mlp(network.sizes, seed=0).layers[0].forward(x), 0)
    net._forward(net._of(50), x)
    dropped = net._of(50).outputs[0]
    kept = dropped > 0
    assert abs((dropped[y > 0] == 0).mean() - 0.2) < 0.02  # of some 10,000
    np.testing.assert_allclose(dropped, kept * y / 0.8, rtol=1e-5)


def test_numpy_by_hand_has_the_slope_of_its_loss_with_dropout():
    network = shapes.Network((20, 30, 30, 4), 50, batch_norm=True, dropout=0.2)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((50, 20), np.float32), rng.integers(0, 4, 50)

    def loss(along=0.0):
        net = peers.net("NumPy by hand", network, 0.0)  # draws the same masks each time
        net.update = lambda: None
        net.params += along
        return net.step(x, t), net.grads

    _, slope = loss()
    step = 1e-3 * slope / np.linalg.norm(slope)
    difference = (loss(step)[0] - loss(-step)[0]) / 2e-3
    assert math.isclose(difference, np.linalg.norm(slope), rel_tol=0.01)


# Tiny networks through every way of every library; each is checked as it is made.


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(
    "network", [*shapes.NETWORKS_QUICK, shapes.Network((20, 10, 4), 16, "Adam")], ids=lambda n: n.name
)
def test_a_peer_agrees(name, network, monkeypatch):
    pytest.importorskip(PACKAGES[name], reason="a peer that takes part where it is installed")
    for other in PACKAGES.keys() - {name}:
        monkeypatch.setitem(sys.modules, PACKAGES[other], None)
    able = name != "scikit-learn" or not network.batch_norm
    ways = {"fastnn", "fastnn fit", "NumPy", "NumPy by hand"} | ({name} if able else set())
    case = step.step(network)
    assert case.calls.keys() == ways | ({"JAX scan"} if name == "JAX" else set())
    for way, call in case.calls.items():
        assert np.size(call()) == case.steps.get(way, 1)
    assert predict.predict(network.sizes, 3).calls.keys() == {"fastnn", "NumPy by hand", name}
    small = shapes.Network((20, 12, 4), 16, "Adam")
    assert name in epoch.epoch(small, 2000, "float32").calls


@pytest.mark.parametrize("name", ["NumPy by hand", "PyTorch", "JAX"])
def test_an_epoch_of_bytes_is_that_of_their_255ths(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="a peer that takes part where it is installed")
    network = shapes.Network((20, 12, 4), 16, "Adam")  # 100 rows: the last batch is smaller
    rng = np.random.default_rng(0)
    x, t = rng.integers(0, 256, (100, 20), np.uint8), rng.integers(0, 4, 100)
    losses = []
    for rows in (x, (x / 255).astype(np.float32)):
        if name == "PyTorch":
            peers.pytorch.load().manual_seed(0)
        losses.append(peers.net(name, network, 1e-2).epoch(*peers.owned(name, rows, t)))
    assert math.isclose(*losses, rel_tol=1e-5)


@pytest.mark.usefixtures("no_peers")
@pytest.mark.parametrize(
    ("attribute", "wrong", "make"),
    [
        ("_sgd", lambda net, lr: lambda: None, lambda: step.step(shapes.NETWORKS_QUICK[0])),
        ("step", lambda net, x, t: 0.01, lambda: epoch.epoch(shapes.EPOCH, 2000, "float32")),
        ("predict", lambda net, x: np.eye(len(x), 4), lambda: predict.predict((20, 10, 4), 3)),
    ],
    ids=["step", "epoch", "predict"],
)
def test_a_peer_that_computes_something_else_is_refused(attribute, wrong, make, monkeypatch):
    make()
    monkeypatch.setattr(numpy_peer.Net, attribute, wrong)
    with pytest.raises(AssertionError, match="NumPy by hand"):
        make()


@pytest.mark.usefixtures("no_peers")
def test_a_fit_that_shuffles_otherwise_is_refused(monkeypatch):
    fit = fastnn.Trainer.fit
    monkeypatch.setattr(fastnn.Trainer, "fit", lambda *args, **options: fit(*args, shuffle=False, **options))
    with pytest.raises(AssertionError, match="fastnn fit"):
        step.step(shapes.NETWORKS_QUICK[0])


def test_peers_have_the_best_number_of_threads():
    times = {
        1: {"fastnn": same(4.0), "NumPy": same(6.0), "NumPy by hand": same(5.0), "JAX scan": same(64.0)},
        2: {"fastnn": same(5.0), "NumPy": same(3.0), "NumPy by hand": same(9.0), "JAX scan": same(32.0)},
    }
    one, two = (peers.seconds(times, count, {"JAX scan": 16}) for count in (1, 2))
    assert one == {"fastnn": 4.0, "NumPy": 6.0, "NumPy by hand": 5.0, "JAX scan": 4.0}
    assert two == {"fastnn": 5.0, "NumPy": 3.0, "NumPy by hand": 5.0, "JAX scan": 2.0}
    ratios = peers.ratios(two)
    assert ratios["best peer"] == "JAX scan"
    assert ratios["over best peer"] == 2 / 5
    assert ratios["over NumPy"] == 3 / 5


def test_memory_that_grows_is_told(monkeypatch):
    monkeypatch.setattr(memory, "_in_a_process", lambda *_: (1000, 1005))
    assert memory.run(quick=True).summary == ["grows between 2 and 6 steps: none"]
    monkeypatch.setattr(memory, "_in_a_process", lambda name, *_: (1000, 1100 if name == "NumPy" else 900))
    assert memory.run(quick=True).summary == ["grows between 2 and 6 steps: NumPy, 512-512-10, batch 8, Adam"]


def test_memory_counts_the_network():
    network = shapes.MEMORY_QUICK[0]
    few, many = memory._in_a_process("fastnn", network, 2, 6)
    assert 12 * network.parameters < few <= many < 100 * network.parameters


# Without its peers the figures are those of fastnn and of NumPy.
RUNS = {
    "gemm": "1,2",
    "sweep": "1",
    "kernels": "1",
    "optimizers": "1",
    "step": "1,2",
    "step-sweep": "1",
    "epoch": "1",
    "predict": "1",
    "memory": "1",
    "estimators": "1",
    "search": "1,2",
    "samplers": "1",
    "population": "1,2",
    "distributed": "1",
    "overhead": "1",
    "import": "1",
    "threads": "1,2",
    "neighbours": "2",
}


NEEDS = {  # other packages than the peers
    "estimators": ("sklearn",),
    "search": ("optuna", "sklearn"),
    "samplers": ("optuna", "sklearn"),
}


@pytest.mark.usefixtures("no_peers")
@pytest.mark.parametrize("name", [name for name in command_line.BENCHMARKS if name not in NEEDS])
def test_every_benchmark_runs(name, tmp_path, capsys):
    check_benchmark(name, tmp_path)
    assert "PyTorch none" in capsys.readouterr().out


@pytest.mark.parametrize("name", NEEDS)
def test_every_benchmark_of_an_extra_runs(name, tmp_path):
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f"{name} is about {package}")
    check_benchmark(name, tmp_path)


def check_benchmark(name, tmp_path):
    assert command_line.main([name, "--quick", "--threads", RUNS[name], "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert rows
    assert len((tmp_path / f"{name}.csv").read_text().splitlines()) == len(rows) + 1
    for row in rows:
        assert row.keys() == rows[0].keys()
        for key, value in row.items():
            if not isinstance(value, str):
                assert math.isfinite(value), (key, row)
                assert value > 0 or (value == 0 and key == "spread %"), (key, row)


def test_estimators_that_learn_something_else_are_refused(monkeypatch):
    neural_network = pytest.importorskip("sklearn.neural_network", reason="the estimators are scikit-learn's")
    monkeypatch.setattr(neural_network.MLPClassifier, "score", lambda *_: 0.5)
    with pytest.raises(AssertionError, match="further apart"):
        estimators.compared(estimators.TASKS[-1], 2)


def test_a_step_with_sweep_is_the_sweep(monkeypatch, capsys):
    found = report.Report([{"a": 1}])
    monkeypatch.setitem(command_line.BENCHMARKS, "step-sweep", lambda **_: found)
    assert command_line.main(["step", "--sweep"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == ["step-sweep", "a", "1"]


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["gemm", "--threads", "0"], ["gemm", "--isa", "mmx"], ["gemm", "--append"], []],
)
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        command_line.main(arguments)
    assert error.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_guard_tries_again_and_then_fails(monkeypatch, capsys):
    measured = []

    def fake(calls, **_):
        measured.append(calls)
        return {"fastnn": Times(1, 1, 1, 1), "NumPy": Times(*[float(len(measured))] * 4)}

    monkeypatch.setattr(guard, "time_interleaved", fake)
    case = cases.Case("case", {"fastnn": float, "NumPy": float, "PyTorch": float})
    assert guard.fast_enough([guard.Floor("slow once", 2.0, lambda: case)])
    assert len(measured) == 2
    assert measured[0].keys() == {"fastnn", "NumPy"}
    assert not guard.fast_enough([guard.Floor("slow always", 9.0, lambda: case)])
    assert len(measured) == 2 + 3
    assert "too slow: slow always" in capsys.readouterr().out


HERE = {"processor": "p", "isa": "avx2", "numpy": "2", "threads": 1}


def past(*ratios, **other):
    return [{**HERE, **other, "case": "case", "ratio": ratio} for ratio in ratios]


def test_what_is_usual_is_the_median_of_the_same_machine():
    lines = past(2.0, 2.0, 2.2) + past(9.0, isa="avx512") + past(9.0, numpy="1")
    assert history.usual(lines, HERE, "case") == (2.0, pytest.approx(1.7))
    assert history.usual(lines, HERE, "another") is None
    assert history.usual(past(9.0, isa="avx512"), HERE, "case") is None
    middle, least = history.usual(past(1.0, 2.0, 3.0), HERE, "case")  # which scatter
    assert middle == 2.0
    assert least < 0
    assert history.usual(past(*[1.0] * 20, *[3.0] * history.LAST), HERE, "case")[0] == 3.0


def test_history_measures_again_and_then_fails(monkeypatch, tmp_path, capsys):
    path, measured = tmp_path / "ratios.jsonl", []
    ratios = {"steady": [2.0], "noisy": [1.0, 3.0], "fallen": [1.0]}

    def fake(floor, turns=history.TURNS):
        measured.append(floor.name)
        return [ratios[floor.name][(measured.count(floor.name) - 1) % len(ratios[floor.name])]] * turns

    monkeypatch.setattr(history, "measure", fake)
    monkeypatch.setattr(history, "where", lambda: HERE)
    floors = [guard.Floor(name, 0.0, None) for name in ratios]
    assert history.read(path) == []
    found, lines, fallen = history.run(floors, path)
    assert fallen == []
    assert {row["verdict"] for row in found.rows} == {"new"}
    history.append(lines, path)
    assert history.read(path) == lines
    path.write_text("".join(json.dumps({**line, "ratio": 2.0}) + "\n" for line in lines))
    measured.clear()
    found, lines, fallen = history.run(floors, path)
    assert fallen == ["fallen"]
    assert measured == ["steady", "noisy", "noisy", "fallen", "fallen"]
    assert [row["verdict"] for row in found.rows] == ["as before", "as before", "fallen"]
    monkeypatch.setattr(history, "run", lambda: (found, lines, fallen))
    monkeypatch.setattr(history, "FILE", path)
    appended = []
    monkeypatch.setattr(history, "append", appended.append)
    assert command_line.main(["history", "--append", "--out", str(tmp_path)]) == 1
    assert appended == [lines]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    assert "fallen: fallen" in capsys.readouterr().out


def test_the_history_is_of_the_cases_that_are_guarded():
    lines = history.read()
    assert {line["case"] for line in lines} >= {floor.name for floor in guard.FLOORS}
    assert all(line.keys() == {*history.where(), "case", "ratio"} for line in lines)


def test_a_ratio_is_measured():
    ratios = history.measure(guard.FLOORS[-1], turns=1)
    assert len(ratios) == 1
    assert ratios[0] > 0


def test_guard_wants_a_gain_beside_neighbours(monkeypatch, capsys):
    gains = iter([0.6, 0.8, 0.6, 0.6, 0.6])
    monkeypatch.setattr(neighbours, "gain", lambda: next(gains))
    monkeypatch.setattr(fastnn, "get_num_threads", lambda: 2)
    assert guard.fast_beside_neighbours()
    assert not guard.fast_beside_neighbours()
    monkeypatch.setattr(fastnn, "get_num_threads", lambda: 1)
    assert guard.fast_beside_neighbours()
    assert "one processor only" in capsys.readouterr().out


def test_a_neighbour_that_is_not_there_is_left_out(monkeypatch):
    monkeypatch.setitem(neighbours.NEIGHBOURS, "PyTorch", lambda: None)
    assert neighbours.measure("step", "PyTorch", 2, 1, True) == {}
