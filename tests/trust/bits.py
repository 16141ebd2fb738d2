"""The same bits on any number of threads and on all ISAs that fuse: `python -m tests.trust bits`."""

from __future__ import annotations

import hashlib
import time

import numpy as np

import fastnn
from fastnn import _core
from native import FUSING, using_isa
from networks import NETS

THREADS = tuple(range(1, 17))
NAMES = (  # one of each kind of phase
    *("plain", "norm", "dropout", "embedding, norm", "activation after activation", "LayerNorm inside"),
    *("RMSNorm last", "affine block inside", "blocks in a block", "Mish"),
)
TASKS = ("SoftmaxCrossEntropy", "Adam"), ("MeanSquaredError", "Momentum"), ("SigmoidCrossEntropy", "Muon")


def digest(names, rows=70):
    """Return a digest of what training, predictions and products come to, of these networks."""
    h = hashlib.sha256()
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        for dtype in (np.float32, np.float64):
            loss, optimizer = TASKS[i % len(TASKS)]
            net = fastnn.Sequential(NETS[name](fastnn, dtype))
            for j, layer in enumerate(net._every):
                if hasattr(layer, "seed"):
                    layer.seed = j
            indices = isinstance(net[0], fastnn.Embedding)
            x = rng.integers(0, 30, (rows, 3)) if indices else rng.normal(size=(rows, 12))
            t = rng.integers(0, 5, rows) if loss.startswith("Softmax") else rng.uniform(size=(rows, 5))
            trainer = fastnn.Trainer(
                net, getattr(fastnn, loss)(), getattr(fastnn, optimizer)(0.01), 1.0, seed=1
            )
            history = trainer.fit(x, t, 2, 32)
            for array in (*net.state_dict().values(), history.loss, net.predict(x)):
                h.update(np.ascontiguousarray(array).tobytes())
    for m, k, n in ((3, 500, 7), (70, 70, 300), (129, 257, 65)):
        a, b = rng.normal(size=(m, k)).astype("f4"), rng.normal(size=(k, n)).astype("f4")
        h.update(fastnn.matmul(a, b).tobytes())
    return h.hexdigest()[:16]


def run(threads=THREADS, names=NAMES, compute=digest):
    """Compute everything on each; return the figures, with what has failed."""
    before, begun, found, failed = fastnn.get_num_threads(), time.perf_counter(), {}, []
    _core.set_work_per_member(0.0)  # teams for every op, however small
    try:
        for isa in _core.isas_supported():
            with using_isa(isa):
                for n in threads:
                    fastnn.set_num_threads(n)
                    found[isa, n] = compute(names)
    finally:
        _core.set_work_per_member(-1.0)
        fastnn.set_num_threads(before)
    digests = {isa: {found[isa, n] for n in threads} for isa in _core.isas_supported()}
    failed += [f"the threads of {isa} come to {len(d)} results" for isa, d in digests.items() if len(d) > 1]
    fusing = set().union(*(digests[isa] for isa in FUSING))
    if len(fusing) > 1:
        failed.append(f"{', '.join(FUSING)} come to {len(fusing)} results")
    return {
        "networks": len(names),
        "threads": [min(threads), max(threads)],
        "digests": {isa: sorted(d) for isa, d in digests.items()},
        "seconds": round(time.perf_counter() - begun, 1),
        "failed": failed,
    }
