"""scikit-learn's solvers and learning rates in terms of fastnn's optimizers.

scikit-learn's gradient is `share` times that of fastnn's loss: its squared error has a factor 1/2, and its
gradients are summed over the outputs where fastnn's are averaged. A rate takes the factor over in the solvers
that are linear in the gradient; the others are indifferent to it, but for their epsilon.
"""

from __future__ import annotations

import math
from typing import Any

from .. import optimizers

__all__ = ["SOLVERS", "Solver"]

LINEAR = ("sgd", "momentum", "nesterov")
DECOUPLED = ("adamw", "muon")  # whose penalty is no part of the gradient
SOLVERS = (*LINEAR, "adam", "adagrad", "rmsprop", *DECOUPLED)
MUON = 20.0  # times the rate of the others is that of the matrices that Muon takes as a whole
LEAST_RATE = 1e-6  # an adaptive rate is divided no further


class Solver:
    """The optimizer of a model, and what to adjust in it between epochs.

    Parameters
    ----------
    model : estimator
    share : float
        See the module.
    """

    def __init__(self, model: Any, share: float) -> None:
        self.linear, self.decoupled = model.solver in LINEAR, model.solver in DECOUPLED
        self.rate = float(model.learning_rate_init)
        self.share = share
        self.factor = share if self.linear else MUON if model.solver == "muon" else 1.0
        self.beta_2 = model.beta_2
        self.epsilon = model.epsilon / share
        self.optimizer = self._made(model)
        self.corrects_epsilon = model.solver in ("adam", *DECOUPLED)
        self.set_rate(self.rate)

    def _made(self, model: Any) -> Any:
        if model.solver in ("adam", "adamw"):
            make = optimizers.Adam if model.solver == "adam" else optimizers.AdamW
            return make(self.rate, float(model.beta_1), float(model.beta_2), eps=self.epsilon)
        if model.solver == "muon":
            betas = {"beta1": float(model.beta_1), "beta2": float(model.beta_2), "eps": self.epsilon}
            ahead = bool(model.nesterovs_momentum)
            return optimizers.Muon(
                self.rate, float(model.momentum), nesterov=ahead, adamw_factor=1 / MUON, **betas
            )
        if model.solver == "adagrad":
            return optimizers.AdaGrad(self.rate, eps=self.epsilon)
        if model.solver == "rmsprop":
            return optimizers.RMSProp(self.rate, float(model.beta_2), eps=self.epsilon)
        if model.momentum == 0:
            return optimizers.SGD(self.rate)
        ahead = model.solver == "nesterov" or (model.solver == "sgd" and model.nesterovs_momentum)
        return (optimizers.Nesterov if ahead else optimizers.Momentum)(self.rate, float(model.momentum))

    def set_rate(self, rate: float) -> None:
        """Set the learning rate, as scikit-learn counts it."""
        self.rate = rate
        self.optimizer.lr = rate * self.factor

    def set_penalty(self, alpha: float, batch_weight: float) -> None:
        """Set the penalty: alpha over the sum of a batch's weights, times a parameter, in its gradient."""
        self.optimizer.weight_decay = float(alpha) if self.decoupled else alpha / (batch_weight * self.share)

    def begin_epoch(self, steps: int) -> None:
        """Adjust Adam's epsilon for the epoch of so many steps that comes.

        scikit-learn adds it to sqrt(v), fastnn, as the paper's Algorithm 1, to sqrt(v / (1 - beta_2^t)); so
        it is divided by sqrt(1 - beta_2^t), with t in the middle of the epoch.
        """
        if self.corrects_epsilon:
            t = self.optimizer.step + (steps + 1) / 2
            self.optimizer.eps = self.epsilon / math.sqrt(1 - self.beta_2**t)

    def end_epoch(self, model: Any) -> None:
        """Lower the rate by the samples seen, if the model wants that."""
        if self.linear and model.learning_rate == "invscaling":
            self.set_rate(float(model.learning_rate_init) / (model.t_ + 1) ** model.power_t)

    def stops(self, model: Any, message: str) -> bool:
        """Return whether the training ends, which got no better; if not, lower the rate."""
        adaptive = self.linear and model.learning_rate == "adaptive"
        too_small = adaptive and self.rate <= LEAST_RATE
        if not adaptive or too_small:
            if model.verbose:
                print(f"{message}{' Learning rate too small.' * too_small} Stopping.")
            return True
        self.set_rate(self.rate / 5)
        if model.verbose:
            print(f"{message} Setting learning rate to {self.rate:f}")
        return False
