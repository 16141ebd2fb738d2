"""scikit-learn's `MLPClassifier` and `MLPRegressor`, trained by fastnn.

    from fastnn.estimators import MLPClassifier  # in the place of sklearn.neural_network

Parameters, attributes, methods and errors are scikit-learn's, and so are the initial weights, the order of
the rows and the loss curve of a `random_state`. Added are Dropout, BatchNorm, weights of samples and classes,
a validation set of one's own, callbacks, single precision, more solvers, activations and losses.
`from_sklearn` makes one of a fitted model of scikit-learn's, and its method `to_sklearn` the other way.
Ensembles (`n_ensemble`) and the folds of `cross_validate` are trained side by side.

It takes scikit-learn 1.3 or newer, the extra fastnn-cpu[sklearn].
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError:
    raise ImportError(
        "fastnn.estimators needs the package scikit-learn: pip install fastnn-cpu[sklearn]"
    ) from None

from .classifier import MLPClassifier
from .conversion import from_sklearn
from .regressor import MLPRegressor
from .validation import cross_validate

__all__ = ["MLPClassifier", "MLPRegressor", "cross_validate", "from_sklearn"]
