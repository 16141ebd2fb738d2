"""What scikit-learn has moved since 1.3."""

from __future__ import annotations

from typing import Any

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before 1.6 it was a method

    def validate_data(estimator: Any, *args: Any, **options: Any) -> Any:
        """Return X, or X and y, checked."""
        return estimator._validate_data(*args, **options)


__all__ = ["validate_data"]
