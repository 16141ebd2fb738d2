"""Networks from and to other libraries, with the state of their optimizers.

    net = fastnn.interchange.from_torch(module)
    net, optimizer = fastnn.interchange.from_torch(module, optimizer)
    fastnn.interchange.train_torch(module, torch.nn.CrossEntropyLoss(), optimizer, x, t, epochs=10)

What is converted means the same after it: where two libraries differ in a convention the numbers are made to
fit, and what cannot be made to is refused, with its place and the reason. docs/interchange.md has the tables.
A door imports its library when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..reference.history import History

__all__ = ["from_torch", "to_torch", "train_torch"]


def _needs(package: str, version: tuple[int, int], door: str) -> None:
    """Raise ImportError, with what to install, unless the package of a door is there and new enough."""
    try:
        found = import_module(package).__version__
    except ImportError:
        found = "none"
    if not found[0].isdigit() or tuple(map(int, found.split(".")[:2])) < version:
        raise ImportError(
            f"fastnn.interchange.{door} needs the package {package}, {version[0]}.{version[1]} or newer, "
            f"found {found}: pip install {package}"
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
