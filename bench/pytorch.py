"""The peer where it is installed: PyTorch's calls for what fastnn does.

Tensors share the memory of the arrays. A backward is the function that autograd would call: nothing here pays
for autograd but the training step.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .shapes import Network

    Call = Callable[[], Any]


def load() -> Any:
    """Return PyTorch, or None where it cannot be imported."""
    try:
        import torch
    except ImportError:
        return None
    return torch


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Have PyTorch, where there is one, use so many threads."""
    torch = load()
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product(a: Any, b: Any, out: Any) -> Call:
    """Return the product of two arrays into a third."""
    import torch

    x, y, z = (torch.from_numpy(array) for array in (a, b, out))
    return lambda: torch.mm(x, y, out=z)


def passes(name: str, x: Any, dout: Any, targets: Any, W: Any) -> tuple[Call, Call]:
    """Return forward and backward of the layer or loss of that name, as `cases.passes` has them."""
    import torch
    import torch.nn.functional as F

    aten = torch.ops.aten
    x, dout, targets, W = (None if a is None else torch.from_numpy(a) for a in (x, dout, targets, W))
    one = torch.ones(())

    def batch_norm() -> tuple[Call, Call]:
        gamma, beta, mean, var = torch.ones(x.shape[1]), *torch.zeros(2, x.shape[1]), torch.ones(x.shape[1])
        _, saved_mean, saved_rstd = torch.native_batch_norm(x, gamma, beta, mean, var, True, 0.1, 1e-5)
        return (
            lambda: torch.native_batch_norm(x, gamma, beta, mean, var, True, 0.1, 1e-5)[0],
            lambda: aten.native_batch_norm_backward.default(
                dout, x, gamma, mean, var, saved_mean, saved_rstd, True, 1e-5, [True] * 3
            )[0],
        )

    def dropout() -> tuple[Call, Call]:
        _, mask = torch.native_dropout(x, 0.5, True)
        return (
            lambda: torch.native_dropout(x, 0.5, True)[0],
            lambda: aten.native_dropout_backward.default(dout, mask, 2.0),
        )

    def embedding() -> tuple[Call, Call]:
        return (
            lambda: aten.embedding.default(W, targets),
            lambda: aten.embedding_sparse_backward(dout, targets, len(W), -1, False).coalesce()._values(),
        )

    def activation(
        forward: Callable[[Any], Any], backward: Any, *rest: Any, of_input: bool = False
    ) -> tuple[Call, Call]:
        saved = x if of_input else forward(x)
        return lambda: forward(x), lambda: backward.default(dout, saved, *rest)

    def softmax_cross_entropy() -> tuple[Call, Call]:
        logp = F.log_softmax(x, 1)

        def backward() -> Any:
            slope = aten.nll_loss_backward.default(
                one, logp, targets, None, 1, -100, torch.tensor(float(len(x)))
            )
            return aten._log_softmax_backward_data.default(slope, logp, 1, x.dtype)

        return lambda: F.cross_entropy(x, targets), backward

    make = {
        "BatchNorm": batch_norm,
        "Dropout": dropout,
        "Embedding": embedding,
        "ReLU": lambda: activation(torch.relu, aten.threshold_backward, 0),
        "LeakyReLU": lambda: activation(F.leaky_relu, aten.leaky_relu_backward, 0.01, False, of_input=True),
        "Sigmoid": lambda: activation(torch.sigmoid, aten.sigmoid_backward),
        "Tanh": lambda: activation(torch.tanh, aten.tanh_backward),
        "GELU": lambda: activation(F.gelu, aten.gelu_backward, of_input=True),
        "SiLU": lambda: activation(F.silu, aten.silu_backward, of_input=True),
        "SoftmaxCrossEntropy": softmax_cross_entropy,
        "SigmoidCrossEntropy": lambda: (
            lambda: F.binary_cross_entropy_with_logits(x, targets),
            lambda: torch.sigmoid(x).sub_(targets).div_(x.numel()),
        ),
        "MeanSquaredError": lambda: (
            lambda: F.mse_loss(x, targets),
            lambda: aten.mse_loss_backward.default(one, x, targets, 1),
        ),
    }
    return make[name]()


def optimizer(name: str, lr: float, tensors: Sequence[Any]) -> Any:
    """Return the optimizer of that name in its fastest form: fused, or (RMSProp has none) "foreach"."""
    import torch

    o = torch.optim
    make: dict[str, Callable[[], Any]] = {
        "SGD": lambda: o.SGD(tensors, lr, fused=True),
        "Momentum": lambda: o.SGD(tensors, lr, momentum=0.9, fused=True),
        "Nesterov": lambda: o.SGD(tensors, lr, momentum=0.9, nesterov=True, fused=True),
        "AdaGrad": lambda: o.Adagrad(tensors, lr, eps=1e-7, fused=True),
        "RMSProp": lambda: o.RMSprop(tensors, lr, alpha=0.99, eps=1e-7, foreach=True),
        "Adam": lambda: o.Adam(tensors, lr, fused=True),
        "AdamW": lambda: o.AdamW(tensors, lr, weight_decay=0.01, fused=True),
    }
    return make[name]()


def update(name: str, lr: float, params: dict[str, Any], grads: dict[str, Any]) -> Call:
    """Return an update of the parameters, which returns the first of them."""
    import torch

    tensors = [torch.from_numpy(p).requires_grad_() for p in params.values()]
    for tensor, grad in zip(tensors, grads.values(), strict=True):
        tensor.grad = torch.from_numpy(grad)
    step = optimizer(name, lr, tensors).step

    def call() -> Any:
        step()
        return tensors[0].detach()

    return call


class Net:
    """A network and its optimizer, from the weights W, b, W, b... of its dense layers."""

    def __init__(self, network: Network, weights: Sequence[Any], lr: float) -> None:
        import torch
        from torch import nn

        layers: list[Any] = []
        for W, b in zip(weights[::2], weights[1::2], strict=True):
            if layers:
                layers += [nn.BatchNorm1d(len(W))] * network.batch_norm + [nn.ReLU(inplace=True)]
                layers += [nn.Dropout(network.dropout)] * (network.dropout > 0)
            layers.append(nn.Linear(*W.shape))
            layers[-1].load_state_dict({"weight": torch.from_numpy(W.T), "bias": torch.from_numpy(b)})
        self.net = nn.Sequential(*layers)
        self.batch = network.batch
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = optimizer(network.optimizer, lr, list(self.net.parameters()))

    def step(self, x: Any, t: Any) -> float:
        """Do a step; return the loss before the update."""
        self.optimizer.zero_grad()
        loss = self.loss(self.net(x), t)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def epoch(self, x: Any, t: Any) -> float:
        """Go through the rows once, in the order of a permutation; return the mean loss of the steps.

        Rows of an integer type are scaled by 1 / 255.
        """
        import torch

        total = 0.0
        for rows in torch.randperm(len(x)).split(self.batch):
            some = x[rows]
            if not some.is_floating_point():
                some = some.float().mul_(1 / 255)
            total += len(rows) * self.step(some, t[rows])
        return total / len(x)

    def loaded_epoch(self, x: Any, t: Any) -> float:
        """Go through the rows once, by a DataLoader; return the mean loss of the steps."""
        from torch.utils.data import DataLoader, TensorDataset

        loader = DataLoader(TensorDataset(x, t), self.batch, shuffle=True)
        return sum(len(some) * self.step(some, labels) for some, labels in loader) / len(x)

    def predict(self, x: Any) -> Any:
        """Return the outputs, as an array."""
        import torch

        with torch.inference_mode():
            return self.net(torch.from_numpy(x)).numpy()
