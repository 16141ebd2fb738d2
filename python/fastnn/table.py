"""A model, a report and a picture from a table: `python -m fastnn train` and `python -m fastnn predict`.

What a data scientist does first is done, and said: rows without a target are left out, gaps become the median
of their column and are marked in one of their own, words become columns of 0 and 1, numbers are standardized,
a fifth of the rows is kept for the test, and a quarter of the rest says when to end the training. The model
is one file, network and columns, and holds no pickle.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from . import checkpoint
from .demo import integer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._checks import Array

__all__ = ["Model", "load", "predict", "read", "train"]

LEVELS = 50  # of a column of words that become columns
FEW_VALUES = 10  # whole numbers of no more values are classes
LEAST_ROWS = 10
MEASURES = {"classification": ["f1", "auc"], "regression": ["r2", "rmse", "mae"]}


class Model(NamedTuple):
    """What a file holds: a network, and what its inputs and outputs mean."""

    net: Any
    columns: list[dict[str, Any]]
    target: str
    task: str  # "classification" or "regression"
    classes: list[str]
    mean: float  # of the target, as is the next; 0 and 1 for classes
    std: float


# Tables


def read(path: str) -> Any:
    """Return a table of CSV, TSV or Parquet as a frame of pandas.

    Raises
    ------
    ImportError
        Without pandas, or what it needs to read Parquet.
    OSError, ValueError
        If the file cannot be read, or has no rows.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("this command needs the package pandas, and pyarrow for Parquet") from None
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a directory, give a file")
    try:
        if path.lower().endswith((".parquet", ".pq")):
            frame = pd.read_parquet(path)
        else:
            with open(path, encoding="utf-8-sig") as file:
                head = file.readline()
            separator = max(",;\t", key=head.count)
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = pd.read_csv(
                    path, sep=separator, encoding="utf-8-sig", low_memory=False, index_col=False
                )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: save it as CSV in UTF-8, or as Parquet") from None
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} has rows of more fields than its head names") from None
    except (pd.errors.ParserError, ValueError) as error:
        raise ValueError(f"{path} is no table that pandas can read: {error}") from None
    if not len(frame):
        raise ValueError(f"{path} has no rows below its head")
    frame.columns = frame.columns.map(str)
    if not frame.columns.is_unique:
        raise ValueError(f"{path} has several columns of one name")
    if pd.to_numeric(frame.columns, errors="coerce").notna().all():
        raise ValueError(f"the first row of {path} must name the columns, got numbers: {', '.join(frame)}")
    return frame


def _numbers(column: Any) -> Any:
    """Return a column as float64, NaN for what is no finite number."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        days = (column - pd.Timestamp(0, tz=column.dt.tz)) / pd.Timedelta(days=1)
        return days.astype(np.float64)
    if pd.api.types.is_bool_dtype(column):
        column = column.astype(object).map({True: 1.0, False: 0.0})
    elif not pd.api.types.is_numeric_dtype(column):
        column = column.astype(object).map(_number_or_text, na_action="ignore")
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    return numbers.where(np.isfinite(numbers))


def _number_or_text(value: Any) -> Any:
    return value if isinstance(value, (int, float, np.number)) else str(value)


def learn(frame: Any, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return what becomes of the columns of a frame, and say what is done with odd ones."""
    columns = []
    for name in frame:
        values = frame[name]
        known = values.notna()
        distinct = values[known].astype(str).nunique()
        if distinct < 2:
            say(f"{name}: left out, it has {'no values' if not distinct else 'the same value everywhere'}")
            continue
        numbers = _numbers(values)
        share = numbers.notna().sum() / known.sum()
        if share < 0.5:
            texts = values[known].astype(str)
            if distinct > max(FEW_VALUES, len(texts) / 2):
                say(f"{name}: left out, {distinct} different texts in {len(texts)} rows are names, not kinds")
                continue
            counts = texts.value_counts()
            levels = sorted(counts.index[:LEVELS])
            if distinct > LEVELS:
                say(f"{name}: the {LEVELS} most frequent of {distinct} texts count, the others are alike")
            columns.append({"name": name, "kind": "words", "levels": levels})
            continue
        gaps = int(numbers.isna().sum())
        odd = gaps - int((~known).sum())
        median = float(numbers.median())
        filled = numbers.fillna(median)
        std = float(filled.std(ddof=0))
        if not 0 < std < math.inf:
            say(f"{name}: left out, its numbers are the same everywhere or too large")
            continue
        if gaps:
            texts = f", {odd} of them no finite numbers" if odd else ""
            say(f"{name}: {gaps} gaps{texts}, filled with the median {median:g} and marked in another column")
        columns.append(
            {
                "name": name,
                "kind": "numbers",
                "median": median,
                "mean": float(filled.mean()),
                "std": std,
                "marked": bool(gaps),
            }
        )
    if not columns:
        raise ValueError("no column is left to learn from")
    return columns


def encode(frame: Any, columns: list[dict[str, Any]], say: Callable[[str], None]) -> Array:
    """Return the rows as a network takes them, float32 (N, inputs); ValueError if a column is missing."""
    missing = [column["name"] for column in columns if column["name"] not in frame]
    if missing:
        raise ValueError(f"the table lacks the columns {', '.join(missing)}, it has {', '.join(frame)}")
    parts: list[Array] = []
    for column in columns:
        values = frame[column["name"]]
        if column["kind"] == "words":
            texts = values.astype(str).to_numpy(dtype=object)
            known = values.notna().to_numpy()
            hits = np.stack([known & (texts == level) for level in column["levels"]], axis=1)
            new = int((known & ~hits.any(axis=1)).sum())
            if new and len(column["levels"]) < LEVELS:
                say(f"{column['name']}: {new} rows have texts that the training has not seen, taken for gaps")
            parts.append(hits.astype(np.float32))
            continue
        numbers = _numbers(values)
        gaps = numbers.isna().to_numpy()
        if gaps.any() and not column["marked"]:
            say(f"{column['name']}: {gaps.sum()} gaps, filled with the median of the training")
        scaled = (numbers.fillna(column["median"]).to_numpy() - column["mean"]) / column["std"]
        parts.append(np.clip(scaled, -1e6, 1e6)[:, None].astype(np.float32))
        if column["marked"]:
            parts.append(gaps[:, None].astype(np.float32))
    return np.concatenate(parts, axis=1)


def _labels(target: Any) -> Array:
    """Return the classes of rows as texts, whole numbers without a point."""
    import pandas as pd

    if pd.api.types.is_float_dtype(target):
        return np.array([str(int(v)) if v == int(v) else str(v) for v in target], dtype=object)
    return np.asarray(target.astype(str).to_numpy(dtype=object))


def _in_order(text: str) -> tuple[bool, int, str]:
    """Return what classes are sorted by: whole numbers by size, before others."""
    whole = text.lstrip("-").isdecimal()
    return not whole, int(text) if whole else 0, text


def task_of(target: Any, wanted: str | None, say: Callable[[str], None]) -> str:
    """Return whether a target, which has no gaps, is of classes or of numbers; ValueError if of neither."""
    import pandas as pd

    numbers = _numbers(target)
    numeric = bool(numbers.notna().all())
    distinct = target.astype(str).nunique()
    if distinct < 2:
        raise ValueError(f"the target {target.name} is the same in all rows: there is nothing to learn")
    if wanted is None:
        few = distinct <= FEW_VALUES and bool((numbers == np.floor(numbers)).all())
        wanted = (
            "classification" if not numeric or few or pd.api.types.is_bool_dtype(target) else "regression"
        )
        other = "regression" if wanted == "classification" else "classification"
        unless = f" (--task {other} if not)" if numeric else ""
        say(f"{target.name}: {distinct} different values, so it is a {wanted}{unless}")
    if wanted == "regression" and not numeric:
        raise ValueError(
            f"the target {target.name} is to be of numbers, and {numbers.isna().sum()} rows have none"
        )
    if wanted == "classification" and distinct > max(FEW_VALUES, len(target) / 2):
        raise ValueError(
            f"the target {target.name} has {distinct} different values in {len(target)} rows, "
            "too many for classes"
        )
    return wanted


# Files


def save(path: str, model: Model) -> None:
    """Write a model to a file, .npz."""
    description = {"layers": model.net.architecture(), "table": model._asdict() | {"net": None}}
    checkpoint.write(path, "table", model.net.state_dict(), description)


def load(path: str) -> Model:
    """Return the model of a file that `train` has written; OSError or ValueError if it holds none."""
    import pandas as pd

    with checkpoint.opened(path, "table") as contents:
        net = fastnn.Sequential._from_file(contents)
        try:
            model = Model(**contents.meta["table"])._replace(net=net)
            row = pd.DataFrame({column["name"]: [None] for column in model.columns})
            outputs = net.predict(encode(row, model.columns, lambda _: None)).shape[1]
            model = model._replace(mean=float(model.mean), std=float(model.std))
            if outputs != (len(model.classes) or 1):
                raise ValueError(f"{outputs} outputs for {len(model.classes)} classes")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not describe a model: {type(error).__name__}: {error}") from None
    return model


# The commands


def train(argv: Sequence[str]) -> int:
    """Train a model; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn train",
        description="Train a model of a column of a table from the others: OUT/model.npz, OUT/report.txt "
        "and, with matplotlib, OUT/report.png.",
    )
    parser.add_argument("table", metavar="TABLE", help="CSV, TSV or Parquet; its first row names the columns")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the column to be predicted")
    parser.add_argument("--task", choices=tuple(MEASURES), help="default: by the values of the target")
    parser.add_argument("--out", default="fastnn-model", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--drop", action="append", default=[], metavar="COLUMN", help="not to learn from it")
    parser.add_argument(
        "--epochs", type=integer(1, 10**6), default=200, metavar="N", help="at most; default: 200"
    )
    parser.add_argument(
        "--hidden", default="128,64", metavar="N,N", help="hidden sizes; default: %(default)s"
    )
    parser.add_argument("--seed", type=integer(0, 2**64 - 1), default=0, metavar="S", help="default: 0")
    args = parser.parse_args(argv)
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    try:
        sizes = [int(size) if size.isdecimal() else 0 for size in args.hidden.split(",")]
        if min(sizes) < 1:
            raise ValueError(f"--hidden must be sizes >= 1, got {args.hidden}")
        if os.path.exists(args.out) and not os.path.isdir(args.out):
            raise ValueError(f"--out must be a directory, {args.out} is none")
        model, trained = _trained(args, sizes, say)
        os.makedirs(args.out, exist_ok=True)
        save(os.path.join(args.out, "model.npz"), model)
        with open(os.path.join(args.out, "report.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        drawn = _picture(model, trained, os.path.join(args.out, "report.png"))
    except (ImportError, OSError, ValueError, FloatingPointError) as error:
        return _failed("train", error)
    print(f"written: {', '.join(['model.npz', 'report.txt', *drawn])} in {args.out}")
    if not drawn:
        print("no picture, for which matplotlib is needed")
    return 130 if trained.history.interrupted else 0


class _Trained(NamedTuple):
    """What a report is made of: the training, and targets and predictions of the test."""

    history: Any
    true: Array
    predicted: Array


def _trained(args: Any, sizes: list[int], say: Callable[[str], None]) -> tuple[Model, _Trained]:
    frame = read(args.table)
    for name in (args.target, *args.drop):
        if name not in frame:
            raise ValueError(f"there is no column {name!r}, the table has {', '.join(frame)}")
    say(f"{args.table}: {len(frame)} rows, {len(frame.columns)} columns")
    kept = frame[args.target].notna()
    if not kept.all():
        say(f"{args.target}: {int((~kept).sum())} rows without it are left out")
    frame = frame[kept].reset_index(drop=True)
    if len(frame) < LEAST_ROWS:
        raise ValueError(f"{len(frame)} rows with a target are too few, {LEAST_ROWS} are needed")
    target = frame[args.target]
    task = task_of(target, args.task, say)
    order = fastnn.data.permutation(len(frame), args.seed, 0)
    test, held, rows = np.split(order, [max(1, len(order) // 5), max(2, 2 * len(order) // 5)])
    features = frame.drop(columns=[args.target, *args.drop])
    columns = learn(features.iloc[rows].reset_index(drop=True), say)
    x = encode(features, columns, lambda _: None)
    classes: list[str] = []
    mean, std = 0.0, 1.0
    if task == "classification":
        labels = _labels(target)
        classes = sorted(set(labels), key=_in_order)
        places = {label: i for i, label in enumerate(classes)}
        t: Array = np.array([places[label] for label in labels])
        loss: Any = fastnn.SoftmaxCrossEntropy()
    else:
        t = _numbers(target).to_numpy()
        mean, std = float(t[rows].mean()), float(t[rows].std()) or 1.0
        t = ((t - mean) / std).astype(np.float32)
        loss = fastnn.MeanSquaredError()
    net = fastnn.mlp([x.shape[1], *sizes, max(1, len(classes))], dropout=0.1, seed=args.seed)
    trainer = fastnn.Trainer(net, loss, fastnn.AdamW(lr=1e-3), seed=args.seed, clip_norm=1.0)
    history = trainer.fit(
        x[rows],
        t[rows],
        args.epochs,
        max(8, min(128, len(rows) // 16)),
        validation=(x[held], t[held]),
        callbacks=[fastnn.callbacks.EarlyStopping(patience=20)],
    )
    say(f"{len(rows)} rows, {x.shape[1]} inputs; {history.epochs} epochs, {history.seconds.sum():.1f} s")
    model = Model(net, columns, args.target, task, classes, mean, std)
    y = trainer.predict_proba(x[test])
    say(f"of {len(test)} rows of the test:")
    if task == "classification":
        figures = trainer.evaluate(x[test], t[test], metrics=MEASURES[task])
        common = float(np.mean(t[test] == np.bincount(t[rows]).argmax()))
        say(f"  accuracy {figures['accuracy']:.4f} (the most frequent class: {common:.4f})")
        say(f"  F1 {figures['f1']:.4f}, AUC {figures['auc']:.4f}")
        return model, _Trained(history, t[test], y.argmax(axis=1))
    true, predicted = t[test] * std + mean, y[:, 0] * std + mean
    r2, rmse, mae = (getattr(fastnn.metrics, name)(true, predicted) for name in MEASURES[task])
    of_mean = fastnn.metrics.rmse(true, np.full(true.shape, mean))
    say(f"  R^2 {r2:.4f}, RMSE {rmse:.4g} (the mean: {of_mean:.4g}), MAE {mae:.4g}")
    return model, _Trained(history, true, predicted)


def _picture(model: Model, trained: _Trained, path: str) -> list[str]:
    """Draw the training and the test; return the file's name, or nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    trained.history.plot(left)
    if model.classes:
        k = len(model.classes)
        table = np.bincount(k * trained.true + trained.predicted, minlength=k * k).reshape(k, k)
        right.imshow(table, cmap="Blues")
        if k <= 20:
            shown = [text if len(text) < 16 else f"{text[:13]}..." for text in model.classes]
            right.set_xticks(range(k), shown, rotation=45, ha="right")
            right.set_yticks(range(k), shown)
            for i, j in np.ndindex(k, k):
                dark = table[i, j] > table.max() / 2
                right.text(j, i, table[i, j], ha="center", va="center", color="w" if dark else "k")
    else:
        right.plot(trained.true, trained.predicted, ".", alpha=0.5)
        ends = [
            min(trained.true.min(), trained.predicted.min()),
            max(trained.true.max(), trained.predicted.max()),
        ]
        right.plot(ends, ends, color="k", linewidth=0.8)
    right.set_xlabel(f"{model.target}, predicted" if model.classes else model.target)
    right.set_ylabel(f"{model.target}, true" if model.classes else f"{model.target}, predicted")
    right.set_title(f"test, {len(trained.true)} rows")
    figure.savefig(path, dpi=120)
    return [os.path.basename(path)]


def predict(argv: Sequence[str]) -> int:
    """Predict; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn predict",
        description="Predict the rows of a table with a model of `python -m fastnn train`: CSV, with a "
        "column of the target's name and, for classes, the probability of each.",
    )
    parser.add_argument("model", metavar="MODEL", help="model.npz, or its directory")
    parser.add_argument("table", metavar="TABLE", help="with the columns of the training but the target")
    parser.add_argument("--out", metavar="FILE", help="default: standard output")
    args = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        inside = os.path.isdir(args.model)
        model = load(os.path.join(args.model, "model.npz") if inside else args.model)
        frame = read(args.table)
        y = model.net.predict(encode(frame, model.columns, say))
        table = frame[[]].copy()
        if model.classes:
            p = fastnn.SoftmaxCrossEntropy().predictions(y)
            table[model.target] = np.array(model.classes, dtype=object)[p.argmax(axis=1)]
            for j, name in enumerate(model.classes):
                table[f"p({name})"] = p[:, j]
        else:
            table[model.target] = y[:, 0].astype(np.float64) * model.std + model.mean
        table.to_csv(sys.stdout if args.out is None else args.out, index=False)
    except BrokenPipeError:  # who reads it has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ImportError, OSError, ValueError) as error:
        return _failed("predict", error)
    return 0


def _failed(command: str, error: Exception) -> int:
    """Print what is wrong, in one line; return the exit status for it."""
    print(f"fastnn {command}: {str(error).strip()}", file=sys.stderr)
    return 2
