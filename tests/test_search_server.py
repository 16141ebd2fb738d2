"""Processes that search over one PostgreSQL server, some of which are killed, and then the server itself."""

import glob
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import fastnn
from native import PYTHON

optuna = pytest.importorskip("optuna", reason="the search is one of Optuna")
NullPool = pytest.importorskip("sqlalchemy.pool").NullPool

PROGRAMS = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [os.path.dirname(shutil.which("initdb") or "")]
pytestmark = pytest.mark.skipif(
    not os.path.exists(os.path.join(PROGRAMS[-1], "postgres")) or importlib.util.find_spec("psycopg") is None,
    reason="there is no PostgreSQL server to start, or no psycopg",
)
TRIALS, WORKERS = 60, 3
WORKER = Path(__file__).with_name("search_worker.py")


class Server:
    """A PostgreSQL of its own, reached by a socket in its folder; not run by root, who may not."""

    def __init__(self, folder):
        self.folder = folder
        self.url = f"postgresql+psycopg://fastnn@/postgres?host={folder}"
        self.user = {"user": "nobody"} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "nobody")
        options = ["--auth", "trust", "--username", "fastnn", "--no-sync"]
        self.call("initdb", "--pgdata", f"{folder}/data", *options)
        self.process = None
        self.start()

    def call(self, program, *arguments):
        subprocess.run(
            [os.path.join(PROGRAMS[-1], program), *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            timeout=60,
            **self.user,
        )

    def start(self):
        settings = ["-k", self.folder, "-c", "listen_addresses=", "-c", "shared_buffers=8MB"]
        with open(f"{self.folder}/log", "a") as log:
            self.process = subprocess.Popen(
                [os.path.join(PROGRAMS[-1], "postgres"), "-D", f"{self.folder}/data", *settings],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self.user,
            )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                return self.call("pg_isready", "-h", self.folder, "-q")
            except subprocess.CalledProcessError:
                assert self.process.poll() is None, Path(self.folder, "log").read_text()
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def stop(self, sent):
        self.process.send_signal(sent)
        self.process.wait(30)


@pytest.fixture
def server():
    folder = tempfile.mkdtemp(prefix="fastnn-pg-")  # a socket's path must be short
    own = Server(folder)
    yield own
    own.stop(signal.SIGQUIT)
    shutil.rmtree(folder, ignore_errors=True)


def begin(url):
    paths = [str(Path(fastnn.__file__).parents[1]), str(WORKER.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [*PYTHON, str(WORKER), url, str(TRIALS)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@contextmanager
def storage_of(url):
    """A storage that keeps no connection."""
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    yield storage
    storage.scoped_session.remove()
    storage._version_manager.scoped_session.remove()
    storage.engine.dispose()


def stored(url):
    """Return number, parameters and value of all finished trials."""
    with storage_of(url) as storage:
        study = optuna.load_study(study_name="shared", storage=storage)
        trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return {trial._trial_id: (tuple(sorted(trial.params.items())), trial.value) for trial in trials}


def wait_for(url, trials):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = stored(url)
        if len(found) >= trials:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{len(found)} trials after a minute")


def test_no_finished_trial_is_lost(server):
    from search_worker import value_of

    with storage_of(server.url) as storage:
        optuna.create_study(study_name="shared", storage=storage)
    workers = [begin(server.url) for _ in range(WORKERS)]
    try:
        before = wait_for(server.url, 10)
        workers[0].kill()  # in the middle of a trial
        workers[0].communicate()
        workers[0] = begin(server.url)
        seen = wait_for(server.url, len(before) + 10)
        assert before.items() <= seen.items()

        seen = stored(server.url)
        server.stop(signal.SIGKILL)  # the database has to recover
        texts = [worker.communicate(timeout=60)[1] for worker in workers]
        assert all(worker.returncode for worker in workers)
        assert all("OperationalError" in text or "StorageInternalError" in text for text in texts), texts
        Path(server.folder, "data", "postmaster.pid").unlink(missing_ok=True)
        server.start()
        assert seen.items() <= stored(server.url).items()

        workers = [begin(server.url) for _ in range(WORKERS)]
        for worker in workers:
            assert worker.communicate(timeout=120)[1] == ""
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    done = stored(server.url)
    assert seen.items() <= done.items()
    assert len(done) >= TRIALS  # each sees what others have done a second late
    assert len({params for params, _ in done.values()}) == len(done)  # none twice
    for params, value in done.values():
        values = dict(params)
        assert value == value_of(values["lr"], values["hidden"])
