"""The benchmarks: their clock, their reports, and that each of them runs, without PyTorch."""

import csv
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks limit the threads of NumPy with threadpoolctl")
pytest.importorskip("matplotlib", reason="the benchmarks draw with matplotlib")

sys.path.append(str(Path(__file__).parents[1]))  # bench is in the repository, not in the package

from bench import __main__ as command_line
from bench import cases, guard, machine, pytorch, report, shapes
from bench.timing import Times, time_interleaved


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert pytorch.load() is None


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


# Without PyTorch the figures are those of fastnn and of NumPy.
RUNS = {
    "gemm": "1,2",
    "sweep": "1",
    "kernels": "1",
    "optimizers": "1",
    "step": "1",
    "overhead": "1",
    "import": "1",
    "threads": "1,2",
}


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("name", command_line.BENCHMARKS)
def test_every_benchmark_runs(name, tmp_path, capsys):
    assert command_line.main([name, "--quick", "--threads", RUNS[name], "--out", str(tmp_path)]) == 0
    assert "PyTorch none" in capsys.readouterr().out
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


@pytest.mark.parametrize("arguments", [["nothing"], ["gemm", "--threads", "0"], ["gemm", "--isa", "mmx"], []])
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
