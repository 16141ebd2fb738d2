#!/usr/bin/env bash
# Optuna 5.0.0, SQLAlchemy 2.0.51: what is raised where another has locked the database, and how long that takes.
# Expected: the storage's error, or one that says that the database is locked, after the timeout that the connection was given.
# Seen: the writing of one trial is tried five times, with up to two seconds between, whatever the timeout; and the message speaks of
# "invalid data in the commit, e.g. exceeding max length". That the database is locked stands in the exception that was its cause.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 sqlalchemy==2.0.51
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sqlite3
import time

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
options = {"connect_args": {"timeout": 0.01}}
study = optuna.create_study(storage=optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=options))
trial = optuna.trial.create_trial(value=1.0)
other = sqlite3.connect("study.db")
other.execute("BEGIN EXCLUSIVE")
begun = time.monotonic()
try:
    study.add_trial(trial)
except optuna.exceptions.StorageInternalError as error:
    seconds, message, cause = time.monotonic() - begun, str(error), str(error.__cause__)
else:
    raise SystemExit("changed: a trial was stored in a locked database")
print(f"after {seconds:.1f} s, at a timeout of 0.01 s: {message}\ncaused by: {cause.splitlines()[0]}")
if "invalid data" not in message or "locked" in message or "locked" not in cause:
    raise SystemExit("changed: another message")
if seconds < 0.5:
    raise SystemExit("changed: it is not tried again")
PYTHON
