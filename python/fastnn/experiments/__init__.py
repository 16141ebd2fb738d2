"""Experiments with neural networks that a course would do, each a script to read, to run and to change.

    from fastnn.experiments import batch_norm

    results = batch_norm.run()  # run(fastnn.reference): the same in NumPy
    print(batch_norm.finding(results))
    batch_norm.draw(results).savefig("batch_norm.png")

`python -m fastnn experiments` runs them from the command line. The pictures need matplotlib, the digits
scikit-learn; the extra fastnn-cpu[demo] brings both. `ppo` needs gymnasium, of the extra fastnn-cpu[rl].
"""

from __future__ import annotations

from types import ModuleType

from . import (
    activation_histograms,
    batch_norm,
    dropout,
    embedding,
    initial_values,
    learning_rate_decay,
    narrowing_search,
    optimizer_losses,
    optimizer_paths,
    ppo,
    weight_decay,
)

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        optimizer_paths,
        optimizer_losses,
        activation_histograms,
        initial_values,
        batch_norm,
        weight_decay,
        dropout,
        learning_rate_decay,
        narrowing_search,
        embedding,
        ppo,
    )
}
