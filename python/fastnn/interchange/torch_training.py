"""Training of a module of PyTorch by fastnn."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .. import _checks, losses
from ..trainer import Trainer
from . import torch_modules, torch_optimizers

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._checks import Array
    from ..reference.history import History
    from .torch_modules import Reading

__all__ = ["train"]

ARRAYS = ("sample_weight", "class_weight")  # options of `fit` that may be tensors
OF_MEANS = {"reduction": "mean", "weight": None}
LOSSES: dict[type, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    nn.CrossEntropyLoss: (lambda o: losses.SoftmaxCrossEntropy(o.label_smoothing), OF_MEANS),
    nn.BCEWithLogitsLoss: (lambda o: losses.SigmoidCrossEntropy(), {**OF_MEANS, "pos_weight": None}),
    nn.MSELoss: (lambda o: losses.MeanSquaredError(), OF_MEANS),
    nn.L1Loss: (lambda o: losses.MeanAbsoluteError(), OF_MEANS),
    nn.HuberLoss: (lambda o: losses.Huber(o.delta), OF_MEANS),
    nn.SmoothL1Loss: (lambda o: losses.Huber(), {**OF_MEANS, "beta": 1}),
}
FUNCTIONS: dict[Any, Callable[[], Any]] = {
    functional.cross_entropy: losses.SoftmaxCrossEntropy,
    functional.binary_cross_entropy_with_logits: losses.SigmoidCrossEntropy,
    functional.mse_loss: losses.MeanSquaredError,
    functional.l1_loss: losses.MeanAbsoluteError,
    functional.huber_loss: losses.Huber,
    functional.smooth_l1_loss: losses.Huber,
}
INSTEAD = {
    "CrossEntropyLoss.weight": "train with sample_weight=weight[t], which is the same",
    "PoissonNLLLoss": "fastnn.Poisson() has its gradient, and a loss that is larger by t log t - t",
    "GaussianNLLLoss": "fastnn.GaussianNLL() takes means and logarithms of variances, beside each other",
    "NLLLoss": "leave LogSoftmax out and take CrossEntropyLoss",
    "BCELoss": "leave Sigmoid out and take BCEWithLogitsLoss",
}


def train(
    module: Any,
    loss: Any,
    optimizer: Any,
    x: Any,
    t: Any,
    clip_norm: Any,
    seed: Any,
    nonfinite: Any,
    options: dict[str, Any],
) -> History:
    """See `fastnn.interchange.train_torch`."""
    reading = torch_modules.read(module)
    ours = torch_optimizers.read(optimizer, reading.sources, reading.net)
    _check_writeable(reading)
    criterion = _loss(loss)
    x, t = _array("x", x), _array("t", t)
    for name in ARRAYS:
        if name in options:
            options[name] = _array(name, options[name])
    options.setdefault("batch_size", 128)
    validation = options.get("validation")
    if isinstance(validation, (tuple, list)):
        options["validation"] = tuple(_array(f"validation[{i}]", part) for i, part in enumerate(validation))
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()))
    trainer = Trainer(reading.net, criterion, ours, clip_norm, seed, nonfinite=nonfinite)
    before = reading.net.state_dict()
    history = trainer.fit(x, t, **options)
    if trainer.steps:
        rows = x.shape[0] if hasattr(x, "shape") else len(x)
        sizes = [b.stop - b.start for b in trainer._batches(rows, options["batch_size"])]
        _correct_variances(reading, before, np.fromiter(islice(cycle(sizes), trainer.steps), float))
        _write_back(reading, ours, optimizer, trainer.steps)
    return history


def _check_writeable(reading: Reading) -> None:
    """Refuse what could not be written back, and modules in eval mode of which training is another."""
    for layer in reading.net.layers:
        if type(layer).__name__ in ("BatchNorm", "Dropout") and not reading.module.training:
            raise ValueError(
                f"module must be in training mode for its {type(layer).__name__}: call module.train()"
            )
    for source in reading.sources.values():
        if (
            source.tensor is not None
            and source.tensor.is_inference()
            and not torch.is_inference_mode_enabled()
        ):
            raise ValueError(
                f"{source.where}: must not be made in inference mode, which forbids to change it"
            )


def _loss(loss: Any) -> Any:
    """Return fastnn's loss for torch's; what is none of torch's is for the trainer to check."""
    if not isinstance(loss, type) and isinstance(loss, nn.Module):
        name = type(loss).__name__
        torch_modules.check_plain(f"loss ({name})", loss)
        if type(loss) not in LOSSES:
            known = ", ".join(c.__name__ for c in LOSSES)
            raise TypeError(f"loss ({name}): {INSTEAD.get(name, f'must be one of {known}, or of fastnn')}")
        make, wanted = LOSSES[type(loss)]
        for option, value in wanted.items():
            given = getattr(loss, option, value)
            if given is not value and not (value is not None and given == value):
                hint = f": {INSTEAD[f'{name}.{option}']}" if f"{name}.{option}" in INSTEAD else ""
                raise ValueError(f"loss ({name}): {option} must be {value}, got {_checks.shown(given)}{hint}")
        if getattr(loss, "ignore_index", -1) >= 0:
            raise ValueError(f"loss ({name}): ignore_index must be < 0, got {loss.ignore_index}")
        try:
            return make(loss)
        except (TypeError, ValueError) as error:
            raise type(error)(f"loss ({name}): {error}") from None
    if callable(loss) and getattr(loss, "__module__", "") == functional.__name__:
        if loss not in FUNCTIONS:
            known = ", ".join(f.__name__ for f in FUNCTIONS)
            raise TypeError(f"loss must be one of {known} of torch.nn.functional, got {loss.__name__}")
        return FUNCTIONS[loss]()
    return loss


def _array(name: str, value: Any) -> Any:
    """Return a tensor as an array, not copied; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, got {value.device}: move it by .cpu()")
    try:
        array: Array = value.detach().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor that NumPy can read, got {value.dtype}: {error}") from None
    return array


def _correct_variances(reading: Reading, before: dict[str, Array], sizes: Array) -> None:
    """Turn running variances, of steps of so many rows, into those of torch, of the divisor N - 1.

    A step's variance differs by N / (N - 1), and counts (1 - m) m^(steps after it); what was there before
    stays. Where all steps had the same N that is exact; else variances are taken for independent of N.
    """
    for i, layer in enumerate(reading.net.layers):
        if hasattr(layer, "running_var") and layer.momentum < 1:
            shares = layer.momentum ** np.arange(len(sizes) - 1, -1, -1.0)
            old = layer.momentum ** len(sizes) * before[f"{i}.running_var"]
            factor = layer.running_var.dtype.type(shares @ (sizes / (sizes - 1)) / shares.sum())
            layer.running_var[...] = old + factor * (layer.running_var - old)


def _write_back(reading: Reading, ours: Any, theirs: Any, steps: int) -> None:
    """Copy parameters, statistics and the optimizer's state into those of torch."""
    state = reading.net._state()
    for name, source in reading.sources.items():
        if source.tensor is not None and (source.trained or name not in reading.net.params):
            source.fill(state[name])
    torch_optimizers.write_state(ours, theirs, reading.sources)
    for part in reading.module.modules():
        if isinstance(part, nn.BatchNorm1d) and part.num_batches_tracked is not None:
            part.num_batches_tracked += steps
    if hasattr(theirs.step, "_wrapped_by_lr_sched"):  # a scheduler, which would warn of steps that it missed
        theirs._opt_called = True
