"""The peer where it is installed: scikit-learn's MLPClassifier, which knows neither BatchNorm nor dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .shapes import Network


def load() -> Any:
    """Return scikit-learn, or None where it cannot be imported."""
    try:
        import sklearn
    except ImportError:
        return None
    return sklearn


def knows(network: Network) -> bool:
    """Return whether it can train such a network."""
    return not network.batch_norm and network.dropout == 0


class Net:
    """A network and its optimizer, from the weights W, b, W, b... of its dense layers."""

    def __init__(self, network: Network, weights: Sequence[Any], lr: float) -> None:
        from sklearn.neural_network import MLPClassifier

        self.model = MLPClassifier(
            network.sizes[1:-1],
            solver=network.optimizer.lower(),
            alpha=0,
            momentum=0,
            nesterovs_momentum=False,
            learning_rate_init=lr,
            batch_size=network.batch,
            shuffle=False,
        )
        # A first step, on rows of zeros, makes the arrays; then weights and optimizer start anew.
        rows = np.zeros((network.batch, network.sizes[0]), np.float32)
        labels = np.arange(network.batch) % network.sizes[-1]
        self.model.partial_fit(rows, labels, classes=np.arange(network.sizes[-1]))
        for to, start in zip(
            self.model.coefs_ + self.model.intercepts_, [*weights[::2], *weights[1::2]], strict=True
        ):
            to[...] = start
        del self.model._optimizer

    def step(self, x: Any, t: Any) -> float:
        """Do a step; return the loss before the update."""
        self.model.partial_fit(x, t)
        return float(self.model.loss_)

    def epoch(self, x: Any, t: Any) -> float:
        """Go through the rows once, shuffled; return the mean loss of the steps."""
        self.model.set_params(shuffle=True).partial_fit(x, t)
        return float(self.model.loss_)

    def predict(self, x: Any) -> Any:
        """Return the probabilities of the classes."""
        return self.model.predict_proba(x)
