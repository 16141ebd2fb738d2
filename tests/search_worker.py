"""A search over a database that others work on, too: search_worker.py URL TRIALS"""

import sys
import time
from types import SimpleNamespace

import numpy as np
import optuna

import fastnn
from fastnn import search


def value_of(lr, hidden):
    """What a trial comes to: a loss, the same for the same parameters wherever it is computed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    net = fastnn.mlp([4, hidden, 1], seed=0)
    trainer = fastnn.Trainer(net, fastnn.MeanSquaredError(), fastnn.SGD(lr), nonfinite="ignore")
    return trainer.fit(x, x[:, :1], 2, 32, progress=False).loss[-1]


def objective(trial):
    value = value_of(trial.suggest_float("lr", 1e-4, 0.1, log=True), trial.suggest_int("hidden", 2, 16))
    time.sleep(0.05)  # so that some are in hand when the process is killed
    return value


def main():
    url, trials = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.storages._rdb.storage.random = SimpleNamespace(random=lambda: 0.02)  # of 2 s between its tries
    search.run(objective, int(trials), url, name="shared", sampler=optuna.samplers.RandomSampler(), threads=1)


if __name__ == "__main__":
    main()
