"""Types of the native core, which checks the arguments as the layers promise."""

from collections.abc import Callable
from typing import Any

from ._checks import Array

class InUse:
    """Held while a call changes an object, or, by any number of threads, reads it.

    A thread that comes meanwhile and may not gets RuntimeError.
    """

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
    def enter_reading(self) -> None: ...
    def leave_reading(self) -> None: ...

def register_class(
    role: str,
    type: type[Any],
    kind: int = 0,
    activation: int = 0,
    names: tuple[str, ...] = (),
    slots: tuple[str, ...] = (),
) -> None:
    """Make a native class, as it is now, known to networks.

    Once it is changed, or an object of another class stands in its place, Python runs it.
    """

class CompiledNetwork:
    """A network of native layers."""

    def __init__(self, lock: InUse, layers: tuple[Any, ...]) -> None: ...
    def step(self, trainer: Any, x: Any, t: Any, weight: Any, cut: int = 0) -> float | None:
        """Do a trainer's step and return its loss, or None if Python has to do it.

        `cut`: into how many pieces the rows are cut, along whose binary tree gradients are added up; 0: none.
        Nothing has changed if the loss is not finite and the trainer minds.
        """
    def train(
        self,
        trainer: Any,
        x: Array,
        t: Array,
        weight: Array | None,
        order: Array | None,
        step: int,
        rows: int,
        scale: float,
        rates: Array | None,
        seconds: float,
        losses: Array,
        cut: int = 0,
    ) -> tuple[int, int, float | None] | None:
        """Do the steps of an epoch from number `step` on, until time, rates or steps of this size are over.

        Each is of `rows` rows, but the last, smaller one. Writes the losses of the updates to `losses` and
        returns how many of them there are, the steps gone through, and the loss of the step that was refused,
        or None: Python has to do it. `cut`: as for `step`.
        """
    @staticmethod
    def step_together(calls: list[tuple[CompiledNetwork, tuple[Any, ...]]]) -> list[Any]:
        """Do the `step` of several networks side by side, given the arguments of each.

        Each is one thread's. Returns the result of each, or the exception that it has raised.
        """
    def pieces(
        self,
        trainer: Any,
        x: Any,
        t: Any,
        weight: Any,
        scale: float,
        pieces: tuple[Array, int, int, Array, float, Array, Callable[[Any], None] | None],
    ) -> tuple[Any, Any, Any] | float | None:
        """Pass pieces of a batch through network and loss, and add up their gradients along a binary tree.

        `pieces`: where in the whole batch each piece begins, and its end; the first whose rows x has, and the
        one after the last; which count, uint8; what the sum of the rows' losses is divided by; room
        for the gradients of each node that is left, of as many numbers as are trained; and what is called
        with a memory of (pieces, n) numbers, of which those of the pieces at hand are there, to fill in the
        others.

        Returns the losses of the pieces that count, the nodes of the tree (level, place) in the rows of
        the room, and mean and variance of each batch normalization; or a loss that is not finite; or None:
        Python has to do it.
        """
    def forward(self, x: Any, one_pass: Any) -> Any:
        """Return the outputs in training and keep what `backward` needs, or NotImplemented."""
    def backward(self, dout: Any, parameters: bool, input: bool) -> Any:
        """Return the gradient of the input, if it is wanted, and fill those of parameters, if they are.

        NotImplemented where the last forward was another, or Python has to do it.
        """
    def infer(self, x: Any, scale: float) -> Array | None:
        """Return the outputs without training for x * scale, or None."""

class Crowd:
    """The slices of so many trainings in hand at once, which threads without Python do."""

    def __init__(self, members: int) -> None: ...
    def begin(self, member: Any, network: CompiledNetwork, arguments: tuple[Any, ...]) -> None:
        """Have a slice done, with the arguments of `CompiledNetwork.train`."""
    def next(self) -> tuple[Any, Any] | None:
        """Return a slice that is done: its member and its result, or the exception that it raised.

        Does one itself as long as none is; None where none is in hand.
        """
    def close(self) -> None:
        """Wait for those that are being done, and forget the others."""

def permutation(n: int, seed: int, epoch: int) -> Array:
    """Return what `fastnn.data.permutation` does."""

def as_real(name: str, x: Any, like: Array | None) -> Array: ...
def matmul(a: Any, b: Any, out: Any) -> Array: ...
def affine_forward(x: Array, W: Array, b: Array) -> Array: ...
def affine_backward(
    lock: InUse, x: Array, W: Array, dout: Array, dW: Array, db: Array, want_dx: bool
) -> Any: ...
def batchnorm_forward(
    lock: InUse,
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    momentum: float,
    eps: float,
    train: bool,
) -> tuple[Array, Array, Array]: ...
def batchnorm_backward(
    lock: InUse,
    by_batch: bool,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array,
    dout: Array,
    dgamma: Array,
    dbeta: Array,
) -> Array: ...

LAYERS: dict[str, int]
_C_API: object  # a capsule of the table that include/fastnn.h describes
C_FUNCTIONS: dict[str, object]  # its functions, in capsules named by their signatures as Cython writes them
ACTIVATIONS: dict[str, int]

def rownorm_forward(
    x: Array, gamma: Array, beta: Array | None, eps: float
) -> tuple[Array, Array | None, Array]: ...
def rownorm_backward(
    lock: InUse,
    x: Array,
    mean: Array | None,
    rstd: Array,
    gamma: Array,
    dout: Array,
    dgamma: Array,
    dbeta: Array | None,
) -> Array: ...
def activation_forward(kind: int, x: Array, alpha: float) -> Array: ...
def activation_backward(kind: int, saved: Array, dout: Array, alpha: float) -> Array: ...
def dropout_forward(
    x: Array, seed: int, step: int, stream: int, ratio: float, scale: float, first: int = 0
) -> tuple[Array, Array]: ...
def dropout_backward(kept: Array, scale: float, dout: Array) -> Array: ...
def scaled(x: Array, factor: float) -> Array: ...
def scale_in_place(x: Array, factor: float) -> None: ...
def sum_of_squares(arrays: list[Array]) -> float: ...
def sparse_product(
    values: Array, columns: Array, starts: Array, w: Array, b: Array | None, out: Array | None
) -> Array:
    """Return x w (+ b), in `out` if it is given, of the rows of x that such parts are."""

def sparse_transposed(
    values: Array, columns: Array, starts: Array, width: int
) -> tuple[Array, Array, Array, Array]:
    """Return the columns that have entries, and the parts of the transpose's rows of these."""

def catch_up(
    lock: InUse,
    kind: int,
    p: Array,
    state: tuple[Array, ...],
    updates: Array,
    rows: Array | None,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
) -> None:
    """Do what rows of p (None: all) have missed of the updates, up to `step`, by a gradient of zero."""

def embedding_forward(x: Any, W: Array) -> tuple[Array, Array]: ...
def embedding_backward(x: Array, dout: Array, dim: int) -> tuple[Array, Array]: ...
def softmax_cross_entropy_forward(
    x: Array, t: Any, weight: Any
) -> tuple[float, Array, Array, Array | None, float]: ...
def softmax_cross_entropy_backward(y: Array, labels: Array, weight: Array | None, scale: float) -> Array: ...
def dense_loss_forward(
    sigmoid: bool, x: Array, t: Any, weight: Any
) -> tuple[float, Array, Array, Array | None, float]: ...
def dense_loss_backward(y: Array, t: Array, weight: Array | None, scale: float) -> Array: ...

LOSSES: dict[str, int]

def kernel_loss(
    loss: int, x: Array, t: Array, numbers: Array, weight: Any
) -> tuple[float, Array, Array, Array | None, float]: ...
def scaled_rows(slope: Array, weight: Array | None, scale: float) -> Array: ...

OPTIMIZERS: dict[str, int]

def update(
    lock: InUse,
    kind: int,
    params: dict[str, Any],
    grads: dict[str, Any],
    state: dict[str, dict[str, Array]],
    slots: tuple[str, ...],
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    counter: dict[str, Any],
    clip_norm: float,
    factors: dict[str, tuple[float, float] | None],
    muon: tuple[frozenset[str], float, float, bool, int],
) -> float:
    """Update; return the norm of the gradients if one is to be kept, if not 0.

    `counter` holds the number of updates, "step", and is told of this one. `factors` are those of rate and
    decay, of the parameters that have any; None: frozen. `muon`, which others do not look at: the names of
    those that Muon updates as a whole, its momentum, the factor of the rate of the others, whether it looks
    ahead, and its iterations.
    """

def blend(targets: list[Array], sources: list[Array], share: float) -> bool:
    """Do target = share * source + (1 - share) * target for each; return whether it has.

    It does nothing where they are not contiguous arrays of one dtype, each pair of one shape, that share no
    memory.
    """

def isa() -> str: ...
def isa_compiled_for() -> str: ...
def isas_built() -> tuple[str, ...]: ...
def isas_supported() -> tuple[str, ...]: ...
def use_isa(name: str) -> None: ...
def openmp_runtimes() -> tuple[str, ...]: ...
def fma_chains(single: bool, rounds: int) -> float: ...

MAX_THREADS: int

def thread_limits() -> dict[str, int]: ...
def cgroup_quota(root: str) -> int: ...
def thread_limit() -> int: ...
def set_thread_limit(n: int) -> None: ...
def thread_override() -> int: ...
def set_thread_override(n: int) -> None: ...
def set_work_per_member(nanoseconds: float) -> None: ...
