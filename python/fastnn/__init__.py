"""fastnn: the fastest way to train neural networks of dense layers on a CPU, from NumPy arrays.

    net = fastnn.mlp([784, 512, 10], batch_norm=True, dropout=0.5)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(lr=1e-3))
    history = trainer.fit(x, t, epochs=10)

`fastnn.reference` has the same names and signatures in plain NumPy: the oracle of the tests, and the text to
learn from.
"""

import importlib as _importlib
import os as _os
from typing import Any as _Any

from . import _load as _load  # comes first
from . import callbacks, data, init, metrics, reference, schedules, search
from .groups import Group
from .joint import Joint
from .layers import (
    GELU,
    SELU,
    Affine,
    BatchNorm,
    Dropout,
    Embedding,
    LayerNorm,
    LeakyReLU,
    Mish,
    ReLU,
    Residual,
    RMSNorm,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from .losses import (
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from .network import Sequential, mlp
from .optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Muon, Nesterov, RMSProp
from .population import Population
from .runtime import get_num_threads, matmul, set_num_threads, show_config, threads
from .sparse import RowSparse
from .trainer import History, Trainer

__version__ = "0.1.0"
_LAZY = ("demo", "distributed", "estimators", "experiments", "interchange")  # which need more than NumPy

__all__ = [
    "GELU",
    "SELU",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Affine",
    "BatchNorm",
    "Dropout",
    "Embedding",
    "GaussianNLL",
    "Group",
    "History",
    "Huber",
    "Joint",
    "LayerNorm",
    "LeakyReLU",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Mish",
    "Momentum",
    "Muon",
    "Nesterov",
    "Poisson",
    "Population",
    "Quantile",
    "RMSNorm",
    "RMSProp",
    "ReLU",
    "Residual",
    "RowSparse",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Tanh",
    "Trainer",
    "__version__",
    "callbacks",
    "data",
    "get_include",
    "get_num_threads",
    "init",
    "matmul",
    "metrics",
    "mlp",
    "reference",
    "schedules",
    "search",
    "set_num_threads",
    "show_config",
    "threads",
]


def get_include() -> str:
    """Return the folder of `fastnn.h`, the C interface, for a compiler's include path. See docs/c.md."""
    return _os.path.join(_os.path.dirname(__file__), "include")


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
