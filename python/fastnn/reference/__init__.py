"""The whole of fastnn in NumPy: oracle of the tests, baseline of the benchmarks, text to learn from.

The names and signatures are those of `fastnn`. Each class is the formula in its docstring, written down once,
in float32 or float64. Common textbook code differs from it in these points:

- ReLU. `dout[mask] = 0` overwrites the caller's gradient; here nothing given to a method is modified.
- Dropout. Older texts leave the kept elements as they are and scale by 1 - ratio at test time
  (`inverted=False`); the default scales by 1 / (1 - ratio) in training, and the test pays nothing. The mask
  is a function of seed, step, layer and position, not the next draw of a hidden generator: a run can be
  repeated, and resumed.
- Epsilon. AdaGrad, RMSProp and Adam divide by sqrt(h) + eps, outside the root; with eps inside, sqrt(h +
  eps), the steps differ. In BatchNorm it stands inside, sqrt(var + eps).
- Adam. The bias corrections divide m and v before the root is taken, as in the paper's Algorithm 1. Folded
  into the learning rate, as many codes have them, they change what eps means.
- Nesterov. Codes that step by momentum^2 v - (1 + momentum) lr g use the v from before the update; here the
  same step is written with the new v.
- Cross-entropy. log(y + 1e-7) avoids log(0) and biases every loss; here log y comes from the logits, exactly.
  A loss over labels takes integers, never the argmax of what might be one-hot: a batch of C rows and C
  classes is not ambiguous.
- Softmax and sigmoid. exp(-x) overflows for x << 0, with a warning; here only exponentials of numbers <= 0
  are taken.
- Mean squared error. Sums over the row, or a factor 1/2, are common; here it is the mean of all squares.
- BatchNorm. Some codes keep the unbiased variance in the running statistics; here it is the biased one, that
  normalizes.
- Weight decay. Adding lambda W to the gradient is not the same as shrinking W in the adaptive methods
  (AdamW); the penalty belongs to the gradient but is not in the loss reported.
- Initial values. The 1 / sqrt(n) that some texts call Xavier is `lecun`; Glorot's own, `xavier`, is sqrt(2 /
  (n_in + n_out)).
- Epochs. `np.random.choice` of a batch draws with replacement, and `if i % (n / batch_size) == 0`, a modulo
  of floats, skips the ends of epochs where batch_size does not divide n; here each epoch visits every row
  once and the last batch is smaller.
- State by name. Optimizers that keep their memory by the address or the order of arrays mix it up when either
  changes.
"""

from .. import callbacks, data, init, metrics, schedules
from ..groups import Group
from ..sparse import RowSparse
from .history import History
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
from .trainer import Trainer

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
    "callbacks",
    "data",
    "get_num_threads",
    "init",
    "matmul",
    "metrics",
    "mlp",
    "schedules",
    "set_num_threads",
    "show_config",
    "threads",
]
