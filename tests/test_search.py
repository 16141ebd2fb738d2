"""Hyper-parameter search: what the sampler draws, what a search stores, what ends early, what is refused."""

import math
import os
import signal
import subprocess
import threading
import time
import warnings
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastnn
from fastnn import search
from native import PYTHON

optuna = pytest.importorskip("optuna", reason="the search is one of Optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

FloatDistribution, IntDistribution, CategoricalDistribution = (
    optuna.distributions.FloatDistribution,
    optuna.distributions.IntDistribution,
    optuna.distributions.CategoricalDistribution,
)

NEVER = optuna.pruners.NopPruner()
COMPLETE, PRUNED, FAIL = (getattr(optuna.trial.TrialState, s) for s in ("COMPLETE", "PRUNED", "FAIL"))


def study_of(values, name="x", distribution=None, sampler=None, direction="minimize", state=COMPLETE):
    """Return a study with a complete trial of one parameter for each (value, result)."""
    study = optuna.create_study(sampler=sampler, direction=direction)
    for value, result in values:
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params={name: value},
                distributions={name: distribution or FloatDistribution(0, 10)},
                value=result,
            )
        )
    return study


def params(study):
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def bowl(trial):
    """Have the least value at lr = 1e-3, width = 50."""
    lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
    width = trial.suggest_int("width", 1, 100)
    return (math.log10(lr) + 3) ** 2 + (width / 50 - 1) ** 2


# The sampler

numbers = st.floats(-1e9, 1e9)


@st.composite
def distributions(draw):
    kind = draw(st.sampled_from(["float", "log", "step", "int", "int log"]))
    if kind == "log":
        low, high = sorted(draw(st.tuples(*[st.floats(1e-30, 1e30)] * 2)))
        return FloatDistribution(low, high, log=True)
    if kind == "int log":
        low, high = sorted(draw(st.tuples(*[st.integers(1, 10**9)] * 2)))
        return IntDistribution(low, high, log=True)
    if kind == "int":
        low, step = draw(st.integers(-(10**9), 10**9)), draw(st.integers(1, 7))
        return IntDistribution(low, low + step * draw(st.integers(0, 10**8)), step=step)
    if kind == "step":
        low, steps = draw(st.integers(-1000, 1000)), draw(st.integers(0, 1000))
        return FloatDistribution(low * 0.25, (low + steps) * 0.25, step=0.25)
    low, high = sorted(draw(st.tuples(numbers, numbers)))
    return FloatDistribution(low, high)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    distribution=distributions(),
    keep=st.floats(0.01, 1),
    margin=st.floats(0, 2),
    min_width=st.floats(0, 1),
    seed=st.integers(0, 2**64),
)
def test_samples_and_ranges_are_within_the_range(distribution, keep, margin, min_width, seed):
    sampler = search.NarrowingSampler(3, keep, margin, min_width, seed)
    study = optuna.create_study(sampler=sampler)
    for _ in range(8):
        trial = study.ask({"x": distribution})
        x = trial.params["x"]
        assert distribution.low <= x <= distribution.high
        assert distribution._contains(distribution.to_internal_repr(x))
        assert isinstance(x, int) == isinstance(distribution, IntDistribution)
        study.tell(trial, (x - distribution.low) % 7)
        low, high = search.ranges(study)["x"]
        assert distribution.low <= low <= high <= distribution.high
        best = min(study.trials, key=lambda trial: trial.value).params["x"]
        if len(study.trials) % 3 == 0:
            assert low <= best * (1 + math.copysign(1e-12, best))
            assert high >= best * (1 - math.copysign(1e-12, best))


@given(seed=st.integers(0, 2**32), log=st.booleans())
@settings(max_examples=20, deadline=None)
def test_draws_are_uniform_on_the_line(seed, log):
    study = optuna.create_study(sampler=search.NarrowingSampler(10**6, seed=seed))
    kind = {"x": FloatDistribution(1e-4, 1, log=log)}
    x = np.array([study.ask(kind).params["x"] for _ in range(200)])
    line = np.log10(x) / 4 + 1 if log else x
    assert abs(line.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 200)
    assert abs((line**2).mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / 200)


@pytest.mark.parametrize(
    ("kind", "all_of_it"),
    [(IntDistribution(1, 4), 4), (IntDistribution(1, 4, log=True), 4), (IntDistribution(0, 9, step=3), 4)],
    ids=str,
)
def test_each_integer_has_its_share(kind, all_of_it):
    study = optuna.create_study(sampler=search.NarrowingSampler(10**6, seed=1))
    drawn = [study.ask({"x": kind}).params["x"] for _ in range(400)]
    values, counts = np.unique(drawn, return_counts=True)
    assert len(values) == all_of_it
    if not kind.log:
        assert counts.min() > 60  # of 100 expected, with a deviation of 9
    else:
        assert counts[0] > 1.5 * counts[1] > 1.5 * counts[3]  # log 3, log 5/3, log 7/5, log 9/7


def test_the_range_becomes_that_of_the_best_and_a_margin():
    sampler = search.NarrowingSampler(round_size=5, keep=0.4, margin=0.25, min_width=0.0)
    values = [(1, 9), (4, 1), (6, 0), (9, 9), (2, 9)]
    assert search.ranges(study_of(values[:4], sampler=sampler))["x"] == pytest.approx(
        (0, 10)
    )  # no whole round
    assert search.ranges(study_of(values, sampler=sampler))["x"] == pytest.approx((3.5, 6.5))
    assert search.ranges(study_of([*values, (0, -1)], sampler=sampler))["x"] == pytest.approx((3.5, 6.5))
    better = [*values, (7, -1), (5, 9), (1, 9), (2, 9), (3, 9)]
    assert search.ranges(study_of(better, sampler=sampler))["x"] == pytest.approx((5.75, 7.25))
    most = [(x, -y) for x, y in values]
    assert search.ranges(study_of(most, sampler=sampler, direction="maximize"))["x"] == pytest.approx(
        (3.5, 6.5)
    )


@pytest.mark.parametrize(
    ("x", "found"), [(5, (4.5, 5.5)), (0.1, (0, 1)), (9.9, (9, 10))], ids=["middle", "low", "high"]
)
def test_a_range_is_never_too_narrow(x, found):
    sampler = search.NarrowingSampler(1, 1.0, 0.25, min_width=0.1)
    assert search.ranges(study_of([(x, 0)], sampler=sampler))["x"] == pytest.approx(found)


def test_a_logarithmic_range_narrows_in_the_logarithm():
    sampler = search.NarrowingSampler(2, 1.0, 0.5, 0.0)
    kind = FloatDistribution(1e-6, 1, log=True)
    study = study_of([(1e-4, 0), (1e-2, 0)], distribution=kind, sampler=sampler)
    assert search.ranges(study)["x"] == pytest.approx((1e-5, 1e-1))


def test_a_range_of_integers_keeps_whole_cells():
    sampler = search.NarrowingSampler(2, 1.0, 0.0, 0.0, seed=0)
    kind = IntDistribution(0, 100, step=10)
    study = study_of([(30, 0), (50, 0)], distribution=kind, sampler=sampler)
    low, high = search.ranges(study)["x"]
    assert (low, high) in [(30, 50), (30, 60), (20, 50), (20, 60)]  # an edge between cells may round
    drawn = [study.ask({"x": kind}).params["x"] for _ in range(200)]
    assert set(drawn) == {30, 40, 50}


def test_ranges_narrow_to_where_it_is_good():
    study = optuna.create_study(sampler=search.NarrowingSampler(seed=0))
    study.optimize(bowl, 100)
    low, high = search.ranges(study)["lr"]
    assert 1e-4 < low < 1e-3 < high < 1e-2
    narrow = search.ranges(study)["width"]
    assert 10 < narrow[0] <= 50 <= narrow[1] < 90
    late = np.array([trial.params["lr"] for trial in study.trials[-20:]])
    assert ((late >= low / 10) & (late <= high * 10)).all()


def test_categories_stay():
    study = optuna.create_study(sampler=search.NarrowingSampler(5, seed=0))
    kind = {"c": CategoricalDistribution((None, "a", 3))}
    for _ in range(60):
        trial = study.ask(kind)
        study.tell(trial, trial.params["c"] != "a")
    assert search.ranges(study) == {"c": (None, "a", 3)}
    assert {p["c"] for p in params(study)[-30:]} == {None, "a", 3}


def test_a_conditional_parameter_narrows_by_its_own_rounds():
    sampler = search.NarrowingSampler(4, 0.5, 0.0, 0.0)
    study = study_of([(i, i) for i in range(3)], name="rare", sampler=sampler)
    for i in range(9):
        study.add_trial(
            optuna.trial.create_trial(
                params={"often": i / 2}, distributions={"often": FloatDistribution(0, 10)}, value=i
            )
        )
    assert search.ranges(study) == {"rare": (0, 10), "often": pytest.approx((0, 0.5))}


def test_pruned_trials_count_and_failed_ones_do_not():
    sampler = search.NarrowingSampler(4, 0.5, 0.0, 0.0)
    study = study_of([(1, 5), (2, 5)], sampler=sampler)
    for state in (FAIL, PRUNED):
        distribution = {"x": FloatDistribution(0, 10)}
        for x in (8, 9):
            assert search.ranges(study)["x"] == (0, 10)
            value = None if state == FAIL else -1.0
            study.add_trial(
                optuna.trial.create_trial(
                    state=state, params={"x": x}, distributions=distribution, value=value
                )
            )
    assert search.ranges(study)["x"] == pytest.approx((1, 2))
    few = study_of([(1, 5)], sampler=sampler)
    for x in (7, 8, 9):
        few.add_trial(optuna.trial.create_trial(state=PRUNED, params={"x": x}, distributions=distribution))
    assert search.ranges(few)["x"] == (0, 10)  # too few complete ones


def test_the_same_seed_draws_the_same():
    def drawn(seed):
        study = optuna.create_study(sampler=search.NarrowingSampler(5, seed=seed))
        study.optimize(bowl, 20)
        return params(study)

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(None) != drawn(None)
    first = drawn(1)
    assert len({p["lr"] for p in first}) == 20
    lr = np.array([math.log10(p["lr"]) / 6 + 1 for p in first])
    width = np.array([p["width"] / 100 for p in first])
    assert np.abs(lr - width).max() > 0.2  # parameters of a trial are drawn apart


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_the_sampler_works_with_the_jobs_of_optuna(storage, tmp_path):
    url = storage and f"sqlite:///{tmp_path / 'jobs.db'}"
    study = optuna.create_study(storage=url, sampler=search.NarrowingSampler(5, seed=0))
    study.optimize(bowl, 20, n_jobs=3)
    assert len({p["lr"] for p in params(study)}) == 20
    low, high = search.ranges(study)["lr"]
    assert high / low < 1e6


def test_several_objectives_are_refused():
    study = optuna.create_study(directions=["minimize"] * 2, sampler=search.NarrowingSampler())
    with pytest.raises(ValueError, match="one objective, got one of 2"):
        study.ask({"x": FloatDistribution(0, 1)})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"round_size": 0}, ValueError, "round_size must be an integer >= 1, got 0"),
        ({"round_size": 2.0}, TypeError, "round_size"),
        ({"keep": 0}, ValueError, r"keep must be a number in \(0, 1\], got 0"),
        ({"keep": math.nan}, ValueError, "keep"),
        ({"margin": -0.1}, ValueError, "margin"),
        ({"min_width": 1.1}, ValueError, "min_width"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": "a"}, TypeError, "seed"),
    ],
)
def test_the_sampler_refuses(options, error, words):
    with pytest.raises(error, match=words):
        search.NarrowingSampler(**options)


def test_ranges_are_those_of_this_sampler():
    with pytest.raises(TypeError, match=r"NarrowingSampler, got <optuna\.samplers"):
        search.ranges(optuna.create_study())
    with pytest.raises(TypeError, match="got 3"):
        search.ranges(3)


def test_the_sampler_is_one_of_optuna_and_can_be_pickled():
    import pickle

    sampler = search.NarrowingSampler(7, seed=3)
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    assert vars(pickle.loads(pickle.dumps(sampler))) == vars(sampler)


# The search


def run(objective, n_trials=12, storage=None, **options):
    return search.run(objective, n_trials, storage, progress=False, **options)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_search_runs_its_trials(threads):
    seen = []

    def objective(trial):
        seen.append((threading.current_thread(), fastnn.get_num_threads()))
        return bowl(trial)

    study = run(objective, threads=threads, sampler=search.NarrowingSampler(4, seed=0))
    assert [trial.state for trial in study.trials] == [COMPLETE] * 12
    assert {limit for _, limit in seen} == {1}
    assert threading.main_thread() not in {thread for thread, _ in seen}
    assert study.best_value == min(trial.value for trial in study.trials)
    assert "lr" in search.ranges(study)


def test_trials_run_side_by_side():
    together = threading.Barrier(3, timeout=60)
    assert len(run(lambda trial: together.wait() * 0.0, 6, threads=3).trials) == 6


def test_the_better_direction_is_kept(tmp_path):
    study = run(lambda trial: -bowl(trial), direction="maximize", storage=tmp_path / "a.db")
    assert study.best_value == max(trial.value for trial in study.trials)
    with pytest.raises(ValueError, match="direction must be that of the stored study 'search'"):
        run(bowl, storage=tmp_path / "a.db")


def test_a_search_resumes_to_the_same_trials(tmp_path):
    def sampler():
        return search.NarrowingSampler(4, seed=5)

    whole = run(bowl, sampler=sampler(), threads=1)
    file = tmp_path / "half.db"
    run(bowl, 7, file, sampler=sampler(), threads=1)
    code = f"""
import math, fastnn.search as search, optuna
def bowl(trial):
    lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
    width = trial.suggest_int("width", 1, 100)
    return (math.log10(lr) + 3) ** 2 + (width / 50 - 1) ** 2
search.run(bowl, 12, {str(file)!r}, sampler=search.NarrowingSampler(4, seed=5), threads=1)
"""
    subprocess.run([*PYTHON, "-c", code], check=True, timeout=120, capture_output=True)
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{file}")
    assert params(stored) == params(whole)
    assert [trial.value for trial in stored.trials] == [trial.value for trial in whole.trials]
    assert len({trial.user_attrs["worker"] for trial in stored.trials}) == 2

    def never(trial):
        raise AssertionError

    assert len(run(never, 12, file).trials) == 12  # there are enough already


def test_processes_share_a_search(tmp_path):
    file = tmp_path / "shared.db"
    code = f"""
import time, fastnn.search as search
def objective(trial):
    time.sleep(0.1)
    return trial.suggest_float("x", 0, 1)
search.run(objective, 24, {str(file)!r}, threads=2)
"""
    run(bowl, 1, file, name="another")  # makes the tables
    processes = [
        subprocess.Popen([*PYTHON, "-W", "error", "-c", code], stderr=subprocess.PIPE) for _ in range(2)
    ]
    for process in processes:
        assert process.communicate(timeout=120)[1].count(b"Error") == 0
        assert process.returncode == 0
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{file}")
    assert 24 <= len(stored.trials) <= 48
    assert len({trial.user_attrs["worker"] for trial in stored.trials}) == 2
    assert len({trial.params["x"] for trial in stored.trials}) == len(stored.trials)


def test_trials_that_others_store_count(tmp_path, monkeypatch):
    file = tmp_path / "both.db"
    url = f"sqlite:///{file}"
    run(bowl, 2, file)

    def objective(trial):
        if trial.number == 3:
            other = optuna.load_study(study_name="search", storage=url)
            other.optimize(bowl, 4)
        time.sleep(0.1)  # longer than it takes to store a trial
        return bowl(trial)

    monkeypatch.setattr(search, "SYNC_SECONDS", 0.0)
    study = run(objective, 10, file, threads=1)
    assert 10 <= len(study.trials) <= 12  # one or two may have begun before the others were seen
    assert sum("worker" in trial.user_attrs for trial in study.trials) == len(study.trials) - 4


def test_a_trial_is_stored_with_all_that_it_reported(tmp_path):
    def objective(trial):
        trial.set_user_attr("seed", 3)
        for step in range(4):
            trial.report(step / 2, step)
        if trial.number == 1:
            raise optuna.TrialPruned
        return bowl(trial)

    run(objective, 2, tmp_path / "a.db", threads=1)
    first, second = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}").trials
    assert first.intermediate_values == second.intermediate_values == {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.5}
    assert (first.state, second.state, second.value) == (COMPLETE, PRUNED, 1.5)
    assert first.user_attrs["seed"] == 3


def test_what_diverges_is_pruned_and_the_search_goes_on():
    results = iter([1.0, math.nan, FloatingPointError("the loss is not finite"), np.float32(2), math.inf])

    def objective(trial):
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    study = run(objective, 5, threads=1)
    assert [trial.state for trial in study.trials] == [COMPLETE, PRUNED, PRUNED, COMPLETE, COMPLETE]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_ends_the_search_and_what_was_done_is_stored(threads, tmp_path):
    def objective(trial):
        if trial.number == 5:
            raise KeyError("a mistake")
        return bowl(trial)

    with pytest.raises(KeyError, match="a mistake"):
        run(objective, 1000, tmp_path / "a.db", threads=threads)
    assert not any(thread.name.startswith("trial-") for thread in threading.enumerate())
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert 5 <= len(stored.trials) < 1000
    assert {trial.state for trial in stored.trials} == {COMPLETE}


def test_a_storage_that_fails_ends_the_search(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("the disk is full")

    def objective(trial):
        time.sleep(0.02)
        return float(trial.number)

    monkeypatch.setattr(optuna.storages.RDBStorage, "_create_new_trial", refuse)
    begun = time.monotonic()
    with pytest.raises(OSError, match="the disk is full"):
        run(objective, 500, tmp_path / "a.db", threads=2)
    assert time.monotonic() - begun < 4  # all trials take 5 seconds


def test_time_ends_the_search():
    done = threading.Event()
    study = run(lambda trial: float(done.wait(0.05)), 10**6, timeout=0.3, threads=2)
    assert 1 <= len(study.trials) < 100


@pytest.mark.parametrize("result", [None, "1", [1.0, 2.0], np.zeros(3), 1j])
def test_a_result_that_is_no_number_is_refused(result):
    with pytest.raises(TypeError, match="the objective's result must be a number"):
        run(lambda trial: result)


class Scalar:
    """Like one of another library."""

    def __float__(self):
        return 1.0


@pytest.mark.parametrize(
    "result", [1, True, [1.0], np.array(1.0), np.float16(1), np.int8(1), Decimal(1), Scalar()]
)
def test_a_result_is_cast_as_optuna_does(result):
    ours, theirs = run(lambda trial: result, 1), optuna.create_study()
    theirs.optimize(lambda trial: result, 1)
    assert [trial.value for trial in ours.trials] == [trial.value for trial in theirs.trials] == [1.0]


# As with Optuna's own optimize


def colours(trial):
    return len(trial.suggest_categorical("a", ["red", "blue"])) * trial.suggest_int("b", 1, 3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
@pytest.mark.parametrize(
    ("pruner", "sampler"),
    [
        (NEVER, lambda: optuna.samplers.GridSampler({"a": ["red", "blue"], "b": [1, 2, 3]})),
        (NEVER, lambda: optuna.samplers.BruteForceSampler(seed=0)),
        (
            optuna.pruners.HyperbandPruner(),
            lambda: optuna.samplers.GridSampler({"a": ["red", "blue"], "b": [1, 2, 3]}),
        ),
    ],
    ids=["grid", "brute force", "grid and hyperband"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_has_tried_all_ends_the_search(sampler, pruner, stored, threads, tmp_path):
    storage = tmp_path / "a.db" if stored else None
    study = run(colours, 50, storage, sampler=sampler(), pruner=pruner, threads=threads)
    assert {(p["a"], p["b"]) for p in params(study)} == {(a, b) for a in ("red", "blue") for b in (1, 2, 3)}
    assert {trial.state for trial in study.trials} == {COMPLETE}
    assert len(study.trials) <= 6 + threads - 1
    assert study.best_value == 3


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
def test_an_objective_may_stop_the_search(stored, tmp_path):
    def objective(trial):
        if trial.number == 4:
            trial.study.stop()
        time.sleep(0.05)
        return float(trial.number)

    study = run(objective, 50, tmp_path / "a.db" if stored else None, threads=2)
    assert 5 <= len(study.trials) <= 6  # what ran beside it has finished
    assert {trial.state for trial in study.trials} == {COMPLETE}
    with pytest.raises(RuntimeError):
        study.stop()  # as ever, when there is nothing to stop


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize(
    "sampler",
    [None, lambda: optuna.samplers.TPESampler(n_startup_trials=3, multivariate=True, seed=0)],
    ids=["narrowing", "tpe"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::optuna.exceptions.ExperimentalWarning")
def test_choices_may_be_sequences(kind, sampler, tmp_path):
    choices = [kind([64]), kind([64, 32]), "none"]
    seen = []

    def objective(trial):
        seen.append(trial.suggest_categorical("hidden", choices))
        assert trial.suggest_categorical("hidden", choices) == seen[-1]
        return trial.suggest_float("x", 0, 1)

    for n_trials in (6, 12):  # the second goes on with what was stored
        study = run(objective, n_trials, tmp_path / "a.db", sampler=sampler and sampler(), threads=1)
    assert len(study.trials) == len(seen) == 12
    assert all(any(choice is one for one in choices) for choice in seen)
    assert [p["hidden"] for p in params(study)] == [c if c == "none" else list(c) for c in seen]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["sqlite", "memory", "journal"])
def test_trials_that_were_enqueued_come_first(kind, tmp_path):
    storage = {
        "sqlite": lambda: optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'a.db'}"),
        "memory": optuna.storages.InMemoryStorage,
        "journal": lambda: journal(tmp_path / "a.log"),
    }[kind]()
    study = optuna.create_study(storage=storage, study_name="search")
    study.enqueue_trial({"x": 0.25, "hidden": [8, 8]}, user_attrs={"memo": "mine"})
    study.enqueue_trial({"x": 0.75})
    seen = []

    def objective(trial):
        seen.append((trial.suggest_float("x", 0, 1), trial.suggest_categorical("hidden", [(8,), (8, 8)])))
        trial.report(seen[-1][0], 0)
        if trial.number == 1:
            raise optuna.TrialPruned
        return seen[-1][0]

    study = run(objective, 5, storage, threads=1)
    assert seen[0] == (0.25, (8, 8))
    assert [seen[0][0], seen[1][0]] == [0.25, 0.75]
    assert [trial.state for trial in study.trials] == [COMPLETE, PRUNED, COMPLETE, COMPLETE, COMPLETE]
    first, second = study.trials[:2]
    assert (first.params["x"], first.value, first.user_attrs["memo"]) == (0.25, 0.25, "mine")
    assert first.intermediate_values == {0: 0.25}
    assert (second.params["x"], second.value) == (0.75, 0.75)
    assert {"worker"} <= second.user_attrs.keys()
    assert "fastnn:enqueued" not in first.system_attrs


def journal(path):
    backends = getattr(optuna.storages, "journal", None)  # as of Optuna 4
    backend = backends.JournalFileBackend if backends else optuna.storages.JournalFileStorage
    return optuna.storages.JournalStorage(backend(str(path)))


def test_an_enqueued_trial_that_was_dropped_waits_again(tmp_path):
    file = tmp_path / "a.db"
    study = optuna.create_study(storage=f"sqlite:///{file}", study_name="search")
    study.enqueue_trial({"x": 0.5})

    def bad(trial):
        trial.suggest_float("x", 0, 1)
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        run(bad, 3, file)
    assert [trial.state.name for trial in study.trials] == ["WAITING"]
    study = run(lambda trial: trial.suggest_float("x", 0, 1), 3, file)
    assert study.trials[0].value == 0.5
    assert [trial.state for trial in study.trials] == [COMPLETE] * 3


def test_what_an_objective_enqueues_is_run_or_kept(tmp_path):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number < 2:
            trial.study.enqueue_trial({"x": 0.125 * (trial.number + 1)})
        return x

    study = run(objective, 2, tmp_path / "a.db", threads=1)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "WAITING"]
    study = run(lambda trial: trial.suggest_float("x", 0, 1), 3, tmp_path / "a.db", threads=1)
    assert [trial.value for trial in study.trials[1:]] == [0.125, 0.25]


def test_user_attributes_of_the_study_are_shared(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    optuna.create_study(storage=url, study_name="search").set_user_attr("data", "digits")

    def objective(trial):
        assert trial.study.user_attrs["data"] == "digits"
        trial.study.set_user_attr("rows", 1797)
        return 0.0

    assert run(objective, 1, url).user_attrs == {"data": "digits", "rows": 1797}


@pytest.mark.parametrize(
    "catch", [ValueError, (KeyError, ValueError), [LookupError, ArithmeticError, ValueError]]
)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
def test_an_exception_may_be_caught(catch, stored, tmp_path, caplog):
    def objective(trial):
        if trial.number % 2:
            raise ValueError("odd")
        return bowl(trial)

    storage = tmp_path / "a.db" if stored else None
    study = run(objective, 6, storage, catch=catch, threads=1)
    assert [trial.state for trial in study.trials] == [COMPLETE, FAIL] * 3
    assert "trial 1 failed: ValueError('odd')" in caplog.text
    if stored:
        assert len(run(objective, 6, storage).trials) == 6  # there are enough
    with pytest.raises(ValueError, match="odd"):
        run(objective, 6, catch=(KeyError, TypeError))


@pytest.mark.parametrize(
    "catch", [3, "ValueError", (ValueError, 3), BaseException, (KeyboardInterrupt,), None]
)
def test_what_cannot_be_caught(catch):
    with pytest.raises(TypeError, match="catch must be a class of exceptions or several"):
        run(bowl, catch=catch)


def test_ctrl_c_is_not_caught():
    def objective(trial):
        search._this_thread.over.set()
        raise search.Interrupted

    assert [trial.state for trial in run(objective, 5, catch=Exception, threads=1).trials] == [FAIL]


class Flaky(optuna.storages.RDBStorage):
    """Refuses at some of its calls."""

    def __init__(self, url, bad):
        super().__init__(url)
        self.calls, self.bad = 0, bad

    def _create_new_trial(self, *arguments):
        self.calls += 1
        if self.calls in self.bad:
            raise OSError("the disk is away")
        return super()._create_new_trial(*arguments)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bad", [{2}, {1, 3, 5}, {6}])
def test_a_storage_that_fails_once_loses_nothing(bad, threads, tmp_path):
    study = run(bowl, 6, Flaky(f"sqlite:///{tmp_path / 'a.db'}", bad), threads=threads)
    assert len({p["lr"] for p in params(study)}) == len(study.trials) == 6


def test_all_that_has_finished_is_stored_when_a_storage_ends_the_search(tmp_path):
    storage = Flaky(f"sqlite:///{tmp_path / 'a.db'}", {3, 4})
    finished = []

    def objective(trial):
        time.sleep(0.02)
        finished.append(trial.number)
        return float(trial.number)

    with pytest.raises(OSError, match="the disk is away"):
        run(objective, 100, storage, threads=2)
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert sorted(trial.value for trial in stored.trials) == sorted(finished)
    assert len(finished) < 20


def test_a_sampler_that_fails_after_a_trial_loses_nothing(tmp_path):
    class Sampler(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values):
            if trial.number == 2:
                raise ZeroDivisionError("in the sampler")

    with pytest.raises(ZeroDivisionError, match="in the sampler"):
        run(bowl, 10, tmp_path / "a.db", sampler=Sampler(), threads=1)
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert [trial.state for trial in stored.trials] == [COMPLETE] * 3


def test_a_search_goes_on_with_the_threads_that_there_are(monkeypatch, caplog):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name not in granted:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    granted = {"trial-0"}
    assert len(run(bowl, 12, threads=3).trials) == 12
    assert "the search has 1 of 3 threads: can't start new thread" in caplog.text


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
@pytest.mark.parametrize("how", [{"threads": 3}, {"together": 3}], ids=str)
def test_a_search_without_threads_runs_in_its_caller(how, stored, monkeypatch, tmp_path):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    def objective(trial):
        if stored and trial.number == 5:  # those before are stored already
            file = f"sqlite:///{tmp_path / 'a.db'}"
            assert len(optuna.load_study(study_name="search", storage=file).trials) == 5
        if trial.number == 7:
            raise optuna.TrialPruned
        return bowl(trial)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    study = run(objective, 12, tmp_path / "a.db" if stored else None, **how)
    assert len(study.trials) == 12
    assert study.trials[7].state == PRUNED
    assert search._this_thread.over is None
    with pytest.raises(KeyError, match="a mistake"):
        run(lambda trial: {}["a mistake"], **how)
    assert run(lambda trial: os.kill(os.getpid(), signal.SIGINT) or 1.0, **how).trials[0].value == 1.0

    def interrupted(trial):
        os.kill(os.getpid(), signal.SIGINT)
        return fit(trial, "loss", epochs=1000, validation=None)[1].loss[-1]

    assert [trial.state for trial in run(interrupted, **how).trials] == [FAIL]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"objective": 3}, TypeError, "objective must be callable, got 3"),
        ({"n_trials": 0}, ValueError, "n_trials"),
        ({"n_trials": None}, TypeError, "n_trials"),
        ({"storage": 3}, TypeError, "storage must be a path, a URL, a storage of Optuna or None, got 3"),
        ({"direction": "up"}, ValueError, "direction must be one of minimize, maximize, got 'up'"),
        ({"threads": 0}, ValueError, "threads"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": math.nan}, ValueError, "timeout"),
    ],
)
def test_the_search_refuses(options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        search.run(**{"objective": bowl, "n_trials": 1} | options)
    with pytest.raises(TypeError, match="progress"):
        search.run(bowl, 1, progress="yes")
    assert list(tmp_path.iterdir()) == []


def test_a_storage_of_optuna_is_taken_too(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'a.db'}")
    assert len(run(bowl, 3, storage).trials) == 3
    assert len(run(bowl, 5, f"sqlite:///{tmp_path / 'a.db'}").trials) == 5


def test_the_bar_counts_trials(capsys):
    search.run(bowl, 3, None, progress=True)
    assert "3/3" in capsys.readouterr().err


INTERRUPTED = """
import os, signal, sys, threading, numpy as np, fastnn, fastnn.search as search
x, t = np.random.default_rng(0).random((2000, 64), np.float32), np.zeros(2000, int)
def objective(trial):
    lr = trial.suggest_float("lr", 1e-3, 1e-2)
    if trial.number < 3:
        return lr
    net = fastnn.mlp([64, 64, 10], seed=0)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(lr))
    if trial.number == 3:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    trainer.fit(x, t, 10**6, 100, callbacks=[search.PruneTrial(trial, "loss")])
study = search.run(objective, 100, sys.argv[1], threads=2)
print(len(study.trials), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_ends_the_search_and_keeps_what_was_done(tmp_path):
    done = subprocess.run(
        [*PYTHON, "-c", INTERRUPTED, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["3", "True"], done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_waits_for_other_trials_and_a_second_one_raises():
    def objective(trial, times):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        return 0.0

    before = signal.getsignal(signal.SIGINT)
    study = run(lambda trial: objective(trial, 1), 100, threads=1)
    assert [trial.state for trial in study.trials] == [COMPLETE]
    with pytest.raises(KeyboardInterrupt):
        run(lambda trial: objective(trial, 2), 100, threads=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_search_may_run_in_any_thread():
    found = []
    worker = threading.Thread(target=lambda: found.append(run(bowl, 3)))
    worker.start()
    worker.join()
    assert len(found[0].trials) == 3


# Trials that end early


def data():
    rng = np.random.default_rng(0)
    t = rng.integers(0, 3, 120)
    return (rng.normal(size=(120, 5)) + 2 * np.eye(3, 5)[t]).astype(np.float32), t


X, T = data()


def fit(trial, monitor="val_accuracy", lr=0.1, epochs=8, lib=fastnn, before=(), **options):
    trainer = lib.Trainer(
        lib.mlp([5, 8, 3], seed=0), lib.SoftmaxCrossEntropy(), lib.SGD(lr), **options.pop("trainer", {})
    )
    callbacks = [*before, search.PruneTrial(trial, monitor)]
    options = {"validation": (X, T), "progress": False} | options
    return trainer, trainer.fit(X, T, epochs, 20, callbacks=callbacks, **options)


class After(optuna.pruners.BasePruner):
    """Ends each trial after so many reports."""

    def __init__(self, reports):
        self.reports = reports

    def prune(self, study, trial):
        return len(trial.intermediate_values) >= self.reports


@pytest.mark.parametrize("lib", [fastnn, fastnn.reference], ids=["native", "reference"])
@pytest.mark.parametrize("monitor", ["loss", "val_loss", "val_accuracy"])
def test_each_epoch_is_reported(monitor, lib):
    direction = "maximize" if monitor == "val_accuracy" else "minimize"
    study = optuna.create_study(direction=direction)
    trial = study.ask()
    _, history = fit(trial, monitor, lib=lib)
    reported = study.trials[0].intermediate_values
    assert list(reported) == list(range(8))
    values = history.loss.reshape(8, -1).mean(axis=1) if monitor == "loss" else history[monitor]
    np.testing.assert_allclose(list(reported.values()), values, rtol=1e-12)


def test_epochs_of_several_fits_count_on():
    trial = optuna.create_study().ask()
    prune = search.PruneTrial(trial, "loss")
    for _ in range(2):
        trainer = fastnn.Trainer(fastnn.mlp([5, 3], seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1))
        trainer.fit(X, T, 3, callbacks=[prune], progress=False)
    assert list(trial.study.trials[0].intermediate_values) == list(range(6))


def test_the_pruner_ends_a_fit():
    study = optuna.create_study(pruner=After(3))
    epochs = []
    with pytest.raises(optuna.TrialPruned, match="after epoch 3"):
        fit(study.ask(), "val_loss", before=[lambda trainer, history: epochs.append(trainer.epochs)])
    assert epochs == [1, 2, 3]
    study.optimize(lambda trial: fit(trial, "val_loss"), 2)
    assert [trial.state for trial in study.trials[1:]] == [PRUNED] * 2


def test_the_trainer_can_be_used_after_it_was_pruned():
    trainer = fastnn.Trainer(fastnn.mlp([5, 3], seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1))
    prune = search.PruneTrial(optuna.create_study(pruner=After(2)).ask(), "loss")
    with pytest.raises(optuna.TrialPruned):
        trainer.fit(X, T, 5, callbacks=[prune], progress=False)
    assert trainer.epochs == 2
    trainer.fit(X, T, 1, progress=False)
    assert trainer.epochs == 3


def test_bad_trials_of_a_search_end_early():
    def objective(trial):
        lr = trial.suggest_float("lr", 1e-9, 1.0, log=True)
        _, history = fit(trial, lr=lr, epochs=12)
        return history.val_accuracy[-1]

    def sampler():
        return search.NarrowingSampler(10**6, seed=0)

    full = run(objective, 30, direction="maximize", threads=1, pruner=NEVER, sampler=sampler())
    study = run(objective, 30, direction="maximize", threads=1, sampler=sampler())
    states = [trial.state for trial in study.trials]
    assert states[:5] == [COMPLETE] * 5
    assert 5 <= states.count(PRUNED) <= 25
    two = run(objective, 30, direction="maximize", threads=2, sampler=sampler())
    assert study.best_value == two.best_value == full.best_value
    pruned = [trial for trial in study.trials if trial.state == PRUNED]
    assert min(len(trial.intermediate_values) for trial in pruned) == 5
    assert {trial.state for trial in full.trials} == {COMPLETE}


@pytest.mark.parametrize(
    ("monitor", "direction", "words"),
    [
        ("val_f1", "minimize", "monitor must be one of what this training records, loss, val_loss"),
        ("val_accuracy", "minimize", "monitor='val_accuracy' needs a study with direction='maximize'"),
        ("loss", "maximize", "needs a study with direction='minimize'"),
    ],
)
def test_a_figure_that_does_not_fit_is_refused(monitor, direction, words):
    steps = []
    with pytest.raises(ValueError, match=words):
        fit(optuna.create_study(direction=direction).ask(), monitor, before=[lambda *_: steps.append(1)])
    assert steps == []


def test_a_fixed_trial_is_a_trial():
    _, history = fit(optuna.trial.FixedTrial({}))
    assert history.epochs == 8


@pytest.mark.parametrize("trial", [None, 3, optuna.trial.Trial])
def test_what_is_no_trial_is_refused(trial):
    with pytest.raises(TypeError, match="trial must be a trial of Optuna"):
        search.PruneTrial(trial)
    with pytest.raises(TypeError, match="monitor must be the name of a figure, got 1"):
        search.PruneTrial(optuna.create_study().ask(), 1)


# Without the extra


def test_without_optuna_the_extra_is_named():
    code = """
import sys
sys.modules["optuna"] = None
import fastnn, fastnn.search as search
for use in (lambda: search.NarrowingSampler(), lambda: search.run(lambda trial: 0.0)):
    try:
        use()
    except ImportError as error:
        print(error)
try:
    search.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    needed = "fastnn.search needs the package optuna: pip install fastnn-cpu[search]"
    assert done.stdout.splitlines() == [
        needed,
        needed,
        "module 'fastnn.search' has no attribute 'nothing'",
    ]


def test_importing_fastnn_does_not_import_optuna():
    code = "import sys, fastnn; assert 'optuna' not in sys.modules and fastnn.search"
    subprocess.run([*PYTHON, "-c", code], check=True)


def test_nothing_experimental_of_optuna_is_used(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(bowl, 3, tmp_path / "a.db", threads=2)
