#!/usr/bin/env bash
# Optuna 5.0.0: a pruner whose resources are "auto", as they are by default, keeps those of the first study that it serves.
# Expected: with the same sampler's seed and the same objective a study prunes the same, whatever its pruner has served before.
# Seen: after a study of trials of 5 steps one of 100 steps runs another number of steps than with a new pruner of the same arguments.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def steps_run(pruner, length):
    """Return how many steps the trials of a study have run."""

    def objective(trial):
        quality = trial.suggest_float("quality", 0, 1)
        for step in range(1, length + 1):
            trial.report(quality, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return quality

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner, study_name="study")
    study.optimize(objective, n_trials=60)
    return sum(trial.last_step for trial in study.trials)


same = []
for make in (optuna.pruners.SuccessiveHalvingPruner, optuna.pruners.HyperbandPruner):
    served = make()
    steps_run(served, 5)
    again, new = steps_run(served, 100), steps_run(make(), 100)
    print(f"{make.__name__}: {again} steps with one that has served, {new} with a new one")
    same.append(again == new)
if any(same):
    raise SystemExit("changed: a pruner that has served prunes as a new one does")
PYTHON
