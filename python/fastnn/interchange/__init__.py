"""Networks from and to other libraries, with the state of their optimizers.

    net = fastnn.interchange.from_torch(module)
    net, optimizer = fastnn.interchange.from_torch(module, optimizer)
    fastnn.interchange.train_torch(module, torch.nn.CrossEntropyLoss(), optimizer, x, t, epochs=10)

What is converted means the same after it: where two libraries differ in a convention the numbers are made to
fit, and what cannot be made to is refused, with its place and the reason. docs/interchange.md and
docs/onnx-and-keras.md have the tables. A door imports its library when it is called.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..reference.history import History

__all__ = ["from_keras", "from_onnx", "from_torch", "to_keras", "to_onnx", "to_torch", "train_torch"]


INSTALLED_BY = {
    "onnx": "fastnn-cpu[onnx]",
    "h5py": "fastnn-cpu[keras]",
}  # the extras; the others are their users'


def _needs(package: str, version: tuple[int, int], door: str) -> None:
    """Raise ImportError, with what to install, unless the package of a door is there and new enough."""
    try:
        found = import_module(package).__version__
    except ImportError as error:
        found = f"none ({error})"
    if not found[0].isdigit() or tuple(map(int, found.split(".")[:2])) < version:
        raise ImportError(
            f"fastnn.interchange.{door} needs the package {package}, {version[0]}.{version[1]} or newer, "
            f"found {found}: pip install {INSTALLED_BY.get(package, package)}"
        )


def from_torch(module: Any, optimizer: Any = None) -> Any:
    """Return the network that a module of PyTorch is, with arrays of its own.

    Parameters
    ----------
    module : torch.nn.Module
        A Sequential, nested or not, or one layer; of Linear, BatchNorm1d, LayerNorm, RMSNorm, Embedding,
        Dropout, Flatten, Identity and the activations that fastnn has. On the CPU, in float32 or float64.
    optimizer : torch.optim.Optimizer or None
        SGD, Adagrad, RMSprop, Adam or AdamW, with parameters of the module.

    Returns
    -------
    Sequential, or with an optimizer (Sequential, optimizer)
        What the module does not train (bias=False, elementwise_affine=False, requires_grad=False, parameters
        that the optimizer was not given) the optimizer has as frozen groups. Without an optimizer such a
        module is refused, unless it is in eval mode: its network is one to predict with.

    Raises
    ------
    TypeError, ValueError
        If something cannot be converted: its place, the reason, and what to do.
    ImportError
        Without torch.
    """
    _needs("torch", (2, 4), "from_torch")
    from . import torch_modules, torch_optimizers

    reading = torch_modules.read(module)
    if optimizer is None:
        reading.check_trained()
        return reading.net
    return reading.net, torch_optimizers.read(optimizer, reading.sources, reading.net)


def to_torch(net: Any, optimizer: Any = None) -> Any:
    """Return the module of PyTorch that a network is, with tensors of its own.

    Parameters
    ----------
    net : Sequential
        Of fastnn's layers, native or the reference's. A Flatten is put between an embedding and what follows.
    optimizer : optimizer or None
        One of fastnn's, with a number as its rate. Frozen parameters become requires_grad=False; those that
        are what a module without them computes with (b = 0, gamma = 1, beta = 0) are left out, bias=False.

    Returns
    -------
    torch.nn.Sequential, or with an optimizer (torch.nn.Sequential, torch.optim.Optimizer)
        The module is in training mode. torch's random state stays as it is.

    Raises
    ------
    TypeError, ValueError
        If something cannot be converted: its place and the reason.
    ImportError
        Without torch.
    """
    _needs("torch", (2, 4), "to_torch")
    from . import torch_modules, torch_optimizers

    if optimizer is None:
        return torch_modules.write(net).module
    torch_modules.check_network(net)
    frozen = torch_optimizers.check(optimizer, net)
    writing = torch_modules.write(net, frozen)
    return writing.module, torch_optimizers.write(optimizer, writing.sources, net)


def train_torch(
    module: Any,
    loss: Any,
    optimizer: Any,
    x: Any,
    t: Any,
    *,
    clip_norm: float | None = None,
    seed: int | None = None,
    nonfinite: str = "raise",
    **options: Any,
) -> History:
    """Train a module of PyTorch in place, with `Trainer.fit`.

    Afterwards parameters, running statistics, `num_batches_tracked` and the optimizer's state are, but for
    rounding, what a loop of PyTorch over the same batches would have left; gradients are not touched. With an
    error nothing has changed. Ctrl-C ends the training and keeps what was learned, as in `fit`.

    Parameters
    ----------
    module : torch.nn.Module
        As for `from_torch`; what it has of BatchNorm1d and Dropout in training mode.
    loss : loss of torch.nn or of fastnn, or function
        CrossEntropyLoss, BCEWithLogitsLoss, MSELoss, L1Loss, HuberLoss, SmoothL1Loss(beta=1), their functions
        in torch.nn.functional, or what a Trainer takes.
    optimizer : torch.optim.Optimizer
        As for `from_torch`. Its rates hold for the whole call: step a scheduler between calls.
    x, t : tensors or arrays
        Tensors are read where they are.
    clip_norm, seed, nonfinite
        As for `Trainer`; without a seed one is drawn from torch's random state.
    **options
        As for `Trainer.fit`: epochs, batch_size, shuffle, validation, callbacks ... (which see the network of
        fastnn).

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As those of `from_torch` and `Trainer.fit`.
    ImportError
        Without torch.
    """
    _needs("torch", (2, 4), "train_torch")
    from . import torch_training

    return torch_training.train(module, loss, optimizer, x, t, clip_norm, seed, nonfinite, options)


def from_onnx(path: Any, *, output: str | None = None, logits: bool = False) -> Any:
    """Return the network that a graph of ONNX is, by what it computes.

    Parameters
    ----------
    path : str, path, binary file or onnx.ModelProto
        A graph from one input to one output, layer after layer and around them (Residual), as the exporters
        of PyTorch, Keras and skl2onnx write it from dense networks, in float32 or float64.
    output : str or None
        The tensor that is the network's output, an inner one or one of the graph's; None: that of the
        graph's outputs which has floats.
    logits : bool
        Whether a Softmax, LogSoftmax or Sigmoid at the end is left out, so that fastnn's losses can take the
        outputs. False: a Sigmoid stays, as a layer, and the others are refused.

    Returns
    -------
    Sequential
        One that predicts what the graph computes. Products and sums with constants, such as an input's
        scale or a batch normalization that an exporter has folded, are taken into the weights beside them.

    Raises
    ------
    TypeError, ValueError
        If something cannot be converted: the name of the node or initializer, and the reason.
    OSError
        If the file cannot be opened.
    ImportError
        Without onnx.
    """
    _needs("onnx", (1, 16), "from_onnx")
    from .. import _checks
    from . import onnx_reading

    if output is not None and not isinstance(output, str):
        raise TypeError(f"output must be a string or None, got {_checks.shown(output)}")
    return onnx_reading.read(path, output, _checks.flag("logits", logits))


def to_onnx(
    net: Any,
    path: Any,
    *,
    scale: float = 1.0,
    probabilities: str | None = None,
    labels: Any = None,
    dtype: Any = None,
) -> None:
    """Write a network as a graph of ONNX that predicts, with a free number of rows.

    Its input is "input", (N, n) of the network's dtype, or (N, T) of int64 for an embedding. Dropout, which
    does nothing then, is left out, and batch normalization takes its running statistics.

    Parameters
    ----------
    net : Sequential
        Of fastnn's layers, native or the reference's.
    path : str, path or binary file
        Written as `Sequential.save` does.
    scale : float
        Multiplies the input first, as in `predict`.
    probabilities : None, "softmax" or "sigmoid"
        What the output "probabilities" is of the network's; None: the output is "output", the network's own.
    labels : sequence of int or of str, or None
        Of the classes: an output "label" more, for each row that of the greatest output; for two labels and
        one output, by whether it is positive (with "sigmoid": more than 1/2).
    dtype : None, float32 or float64
        What the graph computes in; None: what the network does.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or a layer is not one of fastnn's; then nothing is written.
    ImportError
        Without onnx.

    Warns
    -----
    UserWarning
        For GELU() in float64, which the graph has, but onnxruntime cannot run.
    """
    _needs("onnx", (1, 16), "to_onnx")
    from . import onnx_writing

    onnx_writing.write(net, path, scale, probabilities, labels, dtype)


def from_keras(model: Any, *, logits: bool = False) -> Any:
    """Return the network that a model of Keras 3 is, with arrays of its own.

    Parameters
    ----------
    model : keras.Model, or str, path or binary file
        A Sequential model, or a functional one that leads from one input to one output, layer after layer
        and around them (Add); built. Or a file, .keras, which is read without Keras, by h5py.
    logits : bool
        Whether a softmax or sigmoid at the end is left out, so that fastnn's losses can take the outputs.
        False: a sigmoid stays, as a layer, and a softmax is refused.

    Returns
    -------
    Sequential
        What Keras does not train (use_bias=False, center=False, scale=False, trainable=False) is there as
        constants that fastnn would, but for `Group(name, frozen=True)`. Optimizer, regularizers and
        constraints are not carried.

    Raises
    ------
    TypeError, ValueError
        If something cannot be converted: the name of the layer and the reason.
    OSError
        If the file cannot be opened.
    ImportError
        Without h5py, for a file.
    """
    if isinstance(model, (str, os.PathLike)) or hasattr(model, "read"):
        _needs("h5py", (3, 10), "from_keras")
    from .. import _checks
    from . import keras_reading

    return keras_reading.read(model, _checks.flag("logits", logits))


def to_keras(net: Any) -> Any:
    """Return the model of Keras 3 that a network is, with weights of its own.

    Parameters
    ----------
    net : Sequential
        Of fastnn's layers, native or the reference's. A Flatten is put between an embedding and what follows.

    Returns
    -------
    keras.Sequential, or keras.Model where there is a Residual
        Built and not compiled.

    Raises
    ------
    TypeError, ValueError
        If something cannot be converted: its place and the reason.
    ImportError
        Without Keras 3, or what computes for it.
    """
    _needs("keras", (3, 0), "to_keras")
    from . import keras_writing

    return keras_writing.write(net)
