"""From a table to a model and back: the commands train and predict, and what they say of odd tables."""

import re
import sys

import numpy as np
import pytest

import fastnn
from fastnn import __main__ as command_line
from fastnn import table

pd = pytest.importorskip("pandas")
ROWS = 200


def frame(**changes):
    rng = np.random.default_rng(0)
    columns = {
        "size": rng.normal(30, 10, ROWS),
        "count": rng.integers(0, 50, ROWS),
        "kind": rng.choice(["red", "green", "blue"], ROWS),
        "flag": rng.random(ROWS) < 0.5,
    }
    columns["price"] = columns["size"] * 2 + 30 * (columns["kind"] == "red") + rng.normal(size=ROWS)
    columns["class"] = np.where(columns["price"] > 70, "high", "low")
    columns |= {name: value(columns) if callable(value) else value for name, value in changes.items()}
    return pd.DataFrame(columns)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in a directory of its own; return exit status, what it printed, and what to stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = command_line.main([*map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def trained(run, data, target="class", *options, epochs=30):
    data.to_csv("data.csv", index=False)
    status, out, err = run("train", "data.csv", "--target", target, "--epochs", epochs, *options)
    assert (status, err) == (0, ""), err
    return out


def predicted(run, data, *options):
    data.to_csv("new.csv", index=False)
    status, out, err = run("predict", "fastnn-model", "new.csv", "--out", "y.csv", *options)
    assert (status, out) == (0, ""), err
    return pd.read_csv("y.csv"), err


def test_classes(run, tmp_path):
    data = frame().drop(columns="price")
    out = trained(run, data)
    assert "class: 2 different values, so it is a classification\n" in out
    assert "120 rows, 6 inputs" in out
    assert float(re.search(r"accuracy (\S+) \(the most", out)[1]) > 0.9
    assert (tmp_path / "fastnn-model" / "report.txt").read_text() == out.partition("written")[0]
    if "report.png" in out:
        assert (tmp_path / "fastnn-model" / "report.png").read_bytes()[:4] == b"\x89PNG"
    y, err = predicted(run, data.drop(columns="class"))
    assert err == ""
    assert list(y) == ["class", "p(high)", "p(low)"]
    assert (y["class"] == data["class"]).mean() > 0.9
    np.testing.assert_allclose(y["p(high)"] + y["p(low)"], 1, rtol=1e-5)
    assert ((y["p(high)"] > 0.5) == (y["class"] == "high")).all()
    status, out, _ = run("predict", "fastnn-model/model.npz", "new.csv")
    assert (status, out.splitlines()[0], len(out.splitlines())) == (0, "class,p(high),p(low)", ROWS + 1)


def test_numbers(run):
    data = frame()
    out = trained(run, data, "price", "--drop", "class", epochs=100)
    assert "price: 200 different values, so it is a regression (--task classification if not)" in out
    assert float(re.search(r"R\^2 (\S+),", out)[1]) > 0.9
    y, _ = predicted(run, data)
    assert list(y) == ["price"]
    assert np.corrcoef(y.price, data.price)[0, 1] > 0.95


def test_a_seed_repeats_it(run):
    data = frame(price=0)
    assert trained(run, data).split("s\n")[1:] == trained(run, data).split("s\n")[1:]


def test_whole_numbers_are_classes_or_numbers(run):
    data = frame(price=lambda c: np.digitize(c["size"], [25, 35]) - 1.0).drop(columns="class")
    data.loc[3, "price"] = np.nan
    out = trained(run, data, "price", "--hidden", "8")
    assert "price: 1 rows without it are left out" in out
    assert "price: 3 different values, so it is a classification (--task regression if not)" in out
    assert list(predicted(run, data)[0]) == ["price", "p(-1)", "p(0)", "p(1)"]
    assert "R^2" in trained(run, data, "price", "--task", "regression")


def test_booleans_are_classes(run):
    out = trained(run, frame(), "flag")
    assert "flag: 2 different values, so it is a classification" in out
    assert list(predicted(run, frame())[0]) == ["flag", "p(False)", "p(True)"]


def test_odd_columns(run):
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=ROWS).astype(object)
    mixed[::4] = "unknown"
    data = frame(
        name=[f"person {i}" for i in range(ROWS)],
        constant=7,
        empty=np.nan,
        gaps=lambda c: np.where(rng.random(ROWS) < 0.3, np.nan, c["size"]),
        mixed=mixed,
        towns=[f"town {i % 60}" for i in range(ROWS)],
        infinite=lambda c: np.where(rng.random(ROWS) < 0.3, np.inf, c["size"]),
    )
    out = trained(run, data, "class", "--drop", "price")
    for line in (
        r"name: left out, 120 different texts in 120 rows are names, not kinds",
        r"constant: left out, it has the same value everywhere",
        r"empty: left out, it has no values",
        r"gaps: \d+ gaps, filled with the median [\d.]+ and marked in another column",
        r"mixed: (\d+) gaps, \1 of them no finite numbers, filled",
        r"towns: the 50 most frequent of \d+ texts count, the others are alike",
        r"infinite: (\d+) gaps, \1 of them no finite numbers, filled",
    ):
        assert re.search(f"^{line}", out, re.MULTILINE), line
    y, err = predicted(run, data)
    assert (y["class"] == data["class"]).mean() > 0.8
    assert err == ""


def test_tables_to_predict_that_differ(run):
    data = frame().drop(columns="price")
    trained(run, data)
    new = data.assign(kind="violet", more=1).drop(columns="class")
    new.loc[:9, "size"] = np.nan
    new.loc[10, "size"] = 1e300
    y, err = predicted(run, new[["more", "kind", "flag", "count", "size"]])
    assert "kind: 200 rows have texts that the training has not seen, taken for gaps" in err
    assert "size: 10 gaps, filled with the median of the training" in err
    assert np.isfinite(y["p(low)"]).all()
    new.drop(columns=["size", "flag"]).to_csv("new.csv", index=False)
    status, out, err = run("predict", "fastnn-model", "new.csv")
    assert (status, out) == (2, "")
    assert err == "fastnn predict: the table lacks the columns size, flag, it has count, kind, more\n"


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(run, tmp_path, separator):
    data = frame()
    data.to_csv("data.csv", index=False, sep=separator, encoding="utf-8-sig")
    pd.testing.assert_frame_equal(table.read("data.csv"), data)


def test_parquet(run):
    pytest.importorskip("pyarrow")
    frame().to_parquet("data.parquet")
    pd.testing.assert_frame_equal(table.read("data.parquet"), frame())


def test_columns_of_other_dtypes():
    days = pd.date_range("2024-01-01", periods=ROWS)
    data = pd.DataFrame(
        {
            "day": days,
            "zoned": days.tz_localize("UTC"),
            "kind": pd.Categorical(["a", "b"] * (ROWS // 2)),
            "whole": pd.array([1, None] * (ROWS // 2), "Int64"),
            "flag": pd.array([True, False, None, True] * (ROWS // 4), "boolean"),
            "text": pd.array(["x", None] * (ROWS // 2), "string"),
            "numbers": pd.Categorical(["1", "2"] * (ROWS // 2)),
        }
    )
    said = []
    columns = table.learn(data, said.append)
    assert [c["name"] for c in columns] == ["day", "zoned", "kind", "flag", "numbers"]
    x = table.encode(data, columns, said.append)
    assert x.dtype == np.float32
    assert x.shape == (ROWS, 1 + 1 + 2 + 2 + 1)
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x[:, 0].std(), 1, rtol=1e-3)


BAD = {
    "nothing": ("", "data.csv is empty"),
    "a head": ("a,class\n", "data.csv has no rows below its head"),
    "no target": ("a,b\n1,2\n", "there is no column 'class', the table has a, b"),
    "no head": ("1,2\n3,4\n", "the first row of data.csv must name the columns, got numbers: 1, 2"),
    "few rows": ("a,class\n" + "1,x\n2,y\n" * 4, "8 rows with a target are too few, 10 are needed"),
    "one value": (
        "a,class\n" + "1,x\n2,x\n" * 9,
        "the target class is the same in all rows: there is nothing",
    ),
    "names": (
        "a,class\n" + "".join(f"{i},n{i}\n" for i in range(30)),
        "the target class has 30 different val",
    ),
    "no columns": ("a,class\n" + "1,x\n1,y\n" * 9, "no column is left to learn from"),
    "a longer row": (
        "a,class\n" + "1,x\n2,y\n" * 9 + "1,2,3\n",
        "data.csv is no table that pandas can read: ",
    ),
    "longer rows": (
        "a,class\n" + "1,x,3\n2,y,3\n" * 9,
        "data.csv has rows of more fields than its head names",
    ),
    "bytes": (b"a,class\n\xff\xfe,1\n", "data.csv is no text in UTF-8"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_tables(run, tmp_path, bad):
    text, message = BAD[bad]
    (tmp_path / "data.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, err = run("train", "data.csv", "--target", "class")
    assert status == 2
    assert err.startswith(f"fastnn train: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "fastnn-model").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.csv", "--target", "class"), "there is no file none.csv"),
        ((".", "--target", "class"), ". is a directory, give a file"),
        (("data.csv", "--target", "class", "--drop", "no"), "there is no column 'no', the table has size, c"),
        (("data.csv", "--target", "class", "--hidden", "x"), "--hidden must be sizes >= 1, got x"),
        (("data.csv", "--target", "class", "--hidden", "0"), "--hidden must be sizes >= 1, got 0"),
        (("data.csv", "--target", "class", "--task", "regression"), "the target class is to be of numbers"),
        (
            ("data.csv", "--target", "class", "--out", "data.csv"),
            "--out must be a directory, data.csv is none",
        ),
    ],
)
def test_bad_arguments(run, arguments, message):
    frame().to_csv("data.csv", index=False)
    status, _, err = run("train", *arguments)
    assert status == 2
    assert err.startswith(f"fastnn train: {message}")


def test_models_that_are_none(run, tmp_path):
    frame().to_csv("data.csv", index=False)
    fastnn.mlp([2, 3]).save("net.npz")
    (tmp_path / "text.npz").write_text("no model")
    net = fastnn.mlp([2, 3], seed=0)
    wrong = table.Model(net, [{"name": "size", "kind": "numbers"}], "class", "classification", [], 0, 1)
    table.save("wrong.npz", wrong)
    for path in ("none.npz", "net.npz", "text.npz", "wrong.npz"):
        status, out, err = run("predict", path, "data.csv")
        assert (status, out) == (2, "")
        assert err.startswith("fastnn predict: ")
        assert path in err
    with pytest.raises(ValueError, match="table"):
        fastnn.Sequential.load("wrong.npz")


def test_without_pandas(run, monkeypatch):
    frame().to_csv("data.csv", index=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    status, _, err = run("train", "data.csv", "--target", "class")
    assert (status, err) == (
        2,
        "fastnn train: this command needs the package pandas, and pyarrow for Parquet\n",
    )


def test_without_matplotlib(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "no picture, for which matplotlib is needed" in trained(run, frame())
    assert sorted(p.name for p in (tmp_path / "fastnn-model").iterdir()) == ["model.npz", "report.txt"]
