"""Learning-rate schedules."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from fastnn import schedules
from fastnn.schedules import CosineDecay, ExponentialDecay, InverseTimeDecay, StepDecay, WarmUp

ALL = [
    StepDecay(0.1, 0.5, 10),
    ExponentialDecay(0.1, 0.9, 7),
    InverseTimeDecay(0.1, 2.0, 5),
    CosineDecay(0.1, 20, 0.01),
    WarmUp(0.1, 5),
    WarmUp(CosineDecay(0.1, 20), 5),
    WarmUp(WarmUp(StepDecay(0.3), 2), 3),
    WarmUp(CosineDecay(0.1, 20), 5, delay=True),
]


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (StepDecay(0.8, 0.5, 10), {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2}),
        (StepDecay(0.8), {999: 0.8, 1000: 0.08}),
        (ExponentialDecay(0.8, 0.5, 10), {0: 0.8, 5: 0.8 * math.sqrt(0.5), 10: 0.4, 30: 0.1}),
        (ExponentialDecay(0.8, 0.5), {1: 0.4, 2: 0.2}),
        (InverseTimeDecay(0.8, 1.0, 10), {0: 0.8, 10: 0.4, 30: 0.2}),
        (InverseTimeDecay(0.8, 0.5), {2: 0.4}),
        (CosineDecay(0.8, 100, 0.2), {0: 0.8, 50: 0.5, 100: 0.2, 10**9: 0.2}),
        (CosineDecay(0.8, 4), {0: 0.8, 1: 0.4 + 0.4 * math.sqrt(0.5), 2: 0.4, 4: 0.0}),
        (WarmUp(0.8, 4), {0: 0.2, 1: 0.4, 3: 0.8, 4: 0.8, 100: 0.8}),
        (WarmUp(StepDecay(0.8, 0.5, 2), 4), {0: 0.2, 1: 0.4, 2: 0.3, 3: 0.4, 4: 0.2}),
        (WarmUp(0.8, 0), {0: 0.8}),
        (WarmUp(StepDecay(0.8, 0.5, 2), 4, delay=True), {0: 0.2, 1: 0.4, 3: 0.8, 4: 0.8, 5: 0.8, 6: 0.4}),
        (WarmUp(CosineDecay(0.8, 4), 4, delay=True), {3: 0.8, 4: 0.8, 6: 0.4, 8: 0.0}),
        (WarmUp(lambda step: 1.0 + step, 2), {0: 0.5, 1: 2.0, 2: 3.0}),
    ],
)
def test_values(schedule, values):
    for step, lr in values.items():
        result = schedule(step)
        assert type(result) is float
        assert result == pytest.approx(lr, rel=1e-14, abs=1e-17)
        assert schedule(np.int64(step)) == result


@pytest.mark.parametrize("schedule", ALL)
def test_far_out(schedule):
    assert 0 <= schedule(10**15) <= 0.1


@pytest.mark.parametrize("schedule", ALL)
def test_round_trip(schedule):
    again = schedules.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)
    assert [again(step) for step in range(30)] == [schedule(step) for step in range(30)]
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule) == schedule


def test_equality():
    assert len(set(ALL)) == len(ALL)
    assert StepDecay(0.1) != ExponentialDecay(0.1, 0.1, 1000)
    assert StepDecay(0.1) != 0.1


def test_frozen():
    schedule = StepDecay(0.1)
    for change in (
        lambda: setattr(schedule, "lr", 1),
        lambda: setattr(schedule, "x", 1),
        lambda: delattr(schedule, "lr"),
    ):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
    assert schedule.lr == 0.1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StepDecay(-1), ValueError, "^lr must be a number >= 0, got -1"),
        (lambda: StepDecay(0.1, 1.5), ValueError, r"^factor must be a number in \[0, 1\]"),
        (lambda: StepDecay(0.1, 0.5, 0), ValueError, "^every must be an integer >= 1"),
        (lambda: StepDecay(0.1, 0.5, 1.5), TypeError, "^every"),
        (lambda: ExponentialDecay(0.1, 0), ValueError, r"^rate must be a number in \(0, 1\]"),
        (lambda: ExponentialDecay(0.1, 0.5, 0), ValueError, "^steps must be a number > 0"),
        (lambda: InverseTimeDecay(0.1, -1), ValueError, "^rate must be a number >= 0"),
        (lambda: InverseTimeDecay("a", 1), TypeError, "^lr"),
        (lambda: CosineDecay(0.1, 0), ValueError, "^steps must be an integer >= 1"),
        (lambda: CosineDecay(0.1, 1, -1), ValueError, "^final"),
        (lambda: WarmUp(-0.1, 1), ValueError, "^schedule must be a number >= 0"),
        (lambda: WarmUp("x", 1), TypeError, "^schedule"),
        (lambda: WarmUp(0.1, 1, 1), TypeError, "^delay must be True or False, got 1"),
        (lambda: WarmUp(0.1, -1), ValueError, "^steps must be an integer >= 0"),
        (lambda: StepDecay(0.1)(-1), ValueError, "^step must be an integer >= 0"),
        (lambda: StepDecay(0.1)(1.5), TypeError, "^step"),
        (
            lambda: WarmUp(lambda step: 0.1, 1).to_dict(),
            TypeError,
            "^lr must be a number or one of fastnn.schedules",
        ),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"name": "Magic"},
        {"name": ["StepDecay"]},
        {"name": "StepDecay"},
        {"name": "StepDecay", "lr": 0.1, "extra": 1},
        {"name": "StepDecay", "lr": "x"},
        {"name": "StepDecay", "lr": -1},
        {"name": "WarmUp", "schedule": {"name": "Magic"}, "steps": 1},
    ],
)
def test_from_dict_refuses(config):
    with pytest.raises(ValueError, match=r"^(config|lr) "):
        schedules.from_dict(config)


def test_a_file_from_before_delay_gives_the_same_rates():
    old = {"name": "WarmUp", "schedule": CosineDecay(0.1, 20).to_dict(), "steps": 5}
    assert schedules.from_dict(old) == WarmUp(CosineDecay(0.1, 20), 5)


def test_schedules_within_schedules_without_end_are_refused():
    config = StepDecay(0.1).to_dict()
    for _ in range(5000):
        config = {"name": "WarmUp", "schedule": config, "steps": 1}
    with pytest.raises(ValueError, match="config must not have schedules within schedules so deep"):
        schedules.from_dict(config)
