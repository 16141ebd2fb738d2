#!/usr/bin/env bash
# Optuna 5.0.0: choices that are tuples can be stored by one door of a study and not by another.
# Expected: a trial that optimize() can store can be stored by add_trial(), too.
# Seen: with an SQLite storage optimize() takes tuples among the choices in every trial, add_trial() only in the first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
choices = ((8, 8), (16,))


def objective(trial):
    return float(len(trial.suggest_categorical("sizes", choices)))


by_optimize = optuna.create_study(storage="sqlite:///a.db")
by_optimize.optimize(objective, n_trials=3)
print("optimize() stored", len(by_optimize.trials), "trials")
by_adding = optuna.create_study(storage="sqlite:///b.db")
stored = 0
try:
    for _ in range(3):
        distribution = optuna.distributions.CategoricalDistribution(choices)
        by_adding.add_trial(
            optuna.trial.create_trial(params={"sizes": (16,)}, distributions={"sizes": distribution}, value=1.0)
        )
        stored += 1
except ValueError as error:
    print("add_trial() stored", stored, "and then:", error)
if (len(by_optimize.trials), stored) != (3, 1):
    raise SystemExit("changed: both doors store alike now")
PYTHON
