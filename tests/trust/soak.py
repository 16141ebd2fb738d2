"""Mixed use for minutes, with memory, threads and handles looked at: python -m tests.trust soak."""

from __future__ import annotations

import contextlib
import gc
import io
import mmap
import os
import pickle
import tempfile
import threading
import time
from statistics import median

import numpy as np

import fastnn

REFUSED = (TypeError, ValueError, RuntimeError, FloatingPointError, OSError)
GROWTH = 3.0  # MiB, from the second fifth of the time to the last: what allocators keep, 1.9 in 10 minutes
rng = np.random.default_rng(0)
X = rng.normal(size=(256, 16)).astype(np.float32)
T = rng.integers(0, 4, 256)
LARGE = np.ones((512, 512), np.float32)


def trainer(seed=0, **options):
    net = fastnn.mlp([16, 32, 16, 4], batch_norm=True, dropout=0.2, seed=seed)
    return fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(1e-3), seed=seed, **options)


def train():
    own = trainer(clip_norm=1.0, average=0.9)
    own.fit(
        X, T, 2, 32, validation=(X[:64], T[:64]), metrics=["f1"], callbacks=[fastnn.callbacks.EarlyStopping()]
    )
    own.fit_batches([(X[:32], T[:32])] * 4)
    own.step(X[:8], T[:8])
    own.evaluate(X, T)


def predict():
    net = fastnn.mlp([16, 64, 4], seed=0)
    for n in (0, 1, 7, 256):
        net.predict(X[:n])
    net.backward(np.ones_like(net.forward(X)))
    net.input_gradient(np.ones((256, 4)))


def eagerly():
    layer = fastnn.Affine.create(16, 8, seed=0)
    layer.backward(np.ones_like(layer.forward(X)))
    fastnn.Muon(0.1).update(layer.params, layer.grads)
    table = fastnn.Embedding.create(50, 4, seed=0)
    table.backward(np.ones_like(table.forward(T)))
    fastnn.Adam(0.1).update(table.params, table.grads)
    fastnn.matmul(X, X.T)


def save_and_load():
    own = trainer()
    own.step(X, T)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.npz", "a.safetensors"):
            with contextlib.suppress(ImportError):
                own.save(os.path.join(folder, name))
                fastnn.Trainer.load(os.path.join(folder, name))
    file = io.BytesIO()
    own.save(file)
    with contextlib.suppress(*REFUSED):
        fastnn.Trainer.load(io.BytesIO(file.getvalue()[:-9]))
    pickle.loads(pickle.dumps(own)).step(X, T)
    own.net.copy().blend(own.net, 0.5)


def populate():
    population = fastnn.Population.of([16, 8, 4], 5, lr=[0.1, 0.2, 0.3, 0.4, 0.5], dropout=0.1)
    population.fit(X, T, 2, 32)
    population.mean(X)


def in_threads():
    shared = trainer()

    def work(i):
        own = trainer(i)
        own.fit(X, T, 1, 32)
        with contextlib.suppress(RuntimeError):  # another has it
            shared.fit(X, T, 1, 32)
        own.net.predict(X)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fork():
    own = trainer()
    own.step(X, T)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            own.fit(X, T, 1, 32)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, "a forked child has failed"


def err():
    own = trainer()

    def fails(*_):
        raise RuntimeError("from a callback")

    for call in (
        lambda: own.step(X[:, :3], T),
        lambda: own.step(X, T + 9),
        lambda: own.fit(X, T, callbacks=[fails]),
        lambda: own.fit(X, T[:-1]),
        lambda: own.step(X * np.float32(np.nan), T),
        lambda: own.net.load_state_dict({"0.W": X}),
        lambda: fastnn.matmul(X, X),
        lambda: fastnn.Trainer.load(io.BytesIO(b"PK")),
        lambda: fastnn.Population.of([16, 4], 3).fit(X, T, 1, callbacks=[fails]),
        lambda: fastnn.Affine(X, T),
    ):
        try:
            call()
        except REFUSED:
            continue
        raise AssertionError("a bad call has been accepted")


def change_threads():
    before = fastnn.get_num_threads()
    for n in (1, 3, 2):
        fastnn.set_num_threads(n)
        fastnn.matmul(LARGE, LARGE.T)
    fastnn.set_num_threads(before)


USES = [train, predict, eagerly, save_and_load, populate, in_threads, fork, err, change_threads]


def state():
    """Return resident memory in MiB, threads and open handles of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return memory, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def run(minutes=10.0, leak=0, handles=False):
    """Use it for so long; return the figures, with what has failed.

    `leak` bytes a round, or `handles`, are lost on purpose, so that it is seen that this is found.
    """
    end, samples, rounds, lost = time.monotonic() + 60 * minutes, [], 0, []
    begun = time.monotonic()
    while time.monotonic() < end or rounds < 10:
        for use in USES:
            use()
        if leak:  # in pages of its own: an allocator would take some that it has kept
            lost.append(mmap.mmap(-1, leak))
            lost[-1].write(bytes(leak))
        if handles:
            lost.append(os.dup(0))
        rounds += 1
        samples.append((time.monotonic() - begun, *state()))
    for thing in lost if handles else ():
        os.close(thing)
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    memory, threads, open_files = (
        (median(s[i] for s in early), median(s[i] for s in late)) for i in (1, 2, 3)
    )
    second_half = np.array(samples[len(samples) // 2 :])
    slope = 60 * np.polyfit(second_half[:, 0], second_half[:, 1], 1)[0]
    failed = []
    if memory[1] - memory[0] > GROWTH:
        failed.append(f"memory grows from {memory[0]:.1f} to {memory[1]:.1f} MiB")
    if threads[1] > threads[0]:
        failed.append(f"threads grow from {threads[0]} to {threads[1]}")
    if open_files[1] > open_files[0]:
        failed.append(f"handles grow from {open_files[0]} to {open_files[1]}")
    return {
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "rounds": rounds,
        "MiB": [round(m, 1) for m in memory],
        "KiB a minute": round(1024 * float(slope), 1),
        "threads": list(threads),
        "handles": list(open_files),
        "failed": failed,
    }
