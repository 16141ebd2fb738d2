"""Sparse X of the estimators, and the native products and updates behind it, against dense rows."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as ss
import sklearn.neural_network as sk
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import fastnn
from fastnn import _core, optimizers
from fastnn.estimators import MLPClassifier, MLPRegressor
from fastnn.sparse import CSR
from tolerances import assert_same_bits, assert_within

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SHAPES = [
    (0, 3, 5),
    (1, 1, 1),
    (7, 30, 33),
    (40, 5, 128),
    (3, 200, 300),
    (20, 60, 16),
    (5, 0, 40),
    (30, 70, 20),
]
SOLVERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]


def matrix(rows, cols, density=0.2, dtype=np.float64, seed=0):
    return ss.random(rows, cols, density, format="csr", dtype=dtype, random_state=seed)


def parts(x):
    return x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)


# Native products and updates


@pytest.mark.parametrize("mkn", SHAPES)
def test_a_product_is_the_dense_one(isa, team, dtype, mkn):
    m, k, n = mkn
    x, rng = matrix(m, k, dtype=dtype), np.random.default_rng(0)
    w, b = rng.normal(size=(k, n)).astype(dtype), rng.normal(size=n).astype(dtype)
    y = _core.sparse_product(*parts(x), w, b, None)
    exact = x.toarray().astype(np.float64) @ w + b
    scale = abs(x.toarray()).astype(np.float64) @ abs(w) + abs(b)
    assert_within(y, exact, terms=k + 1, scale=scale)
    if n > 24:  # each element of the dense product is a chain of fma
        assert_same_bits(y, _core.affine_forward(x.toarray(), w, b))
    out = np.empty_like(y)
    assert _core.sparse_product(*parts(x), w[:, ::-1], None, out) is out
    assert_within(out, exact[:, ::-1] - b[::-1], terms=k, scale=scale)


@pytest.mark.parametrize("mk", [(0, 3), (1, 1), (7, 30), (40, 5), (300, 2000), (5, 0)])
def test_a_transpose_is_scipys(dtype, mk):
    x = matrix(*mk, dtype=dtype)
    rows, values, columns, starts = _core.sparse_transposed(*parts(x), x.shape[1])
    turned = ss.csr_matrix(x.T)
    full = np.flatnonzero(np.diff(turned.indptr))
    assert_same_bits(rows, full.astype(np.int64))
    np.testing.assert_array_equal(starts, np.append(turned.indptr[full], turned.nnz))
    np.testing.assert_array_equal(columns, turned.indices)
    assert_same_bits(values, turned.data)


@pytest.mark.parametrize(
    "solver", sorted(optimizers.CLASSES.keys() - {"Muon"})
)  # which updates a matrix as a whole
def test_late_updates_are_those_in_time(isa, team, dtype, solver):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(30, 17)).astype(dtype)
    makers = (optimizers.CLASSES[solver](weight_decay=0.1) for _ in range(2))
    (in_time, late), (p, q) = makers, (start.copy(), start.copy())
    updates, lock = np.zeros(30, np.int64), _core.InUse()

    def catch_up(rows):
        state = tuple(late.state[slot]["w"] for slot in late.slots)
        beta1, beta2 = (*(getattr(late, name) for name in late._betas), 0.0, 0.0)[:2]
        rates = late.rate(), late.decay(), beta1, beta2, getattr(late, "eps", 0.0), late.step
        _core.catch_up(lock, late._kind, q, state, updates, rows, *rates)

    for _ in range(6):
        rows = np.sort(rng.choice(30, 5, replace=False))
        g = np.zeros_like(p)
        g[rows] = rng.normal(size=(5, 17))
        in_time.update({"w": p}, {"w": g})
        if late.step:
            catch_up(rows)
            assert (updates[rows] == late.step).all()
        late.update({"w": q}, {"w": fastnn.sparse.RowSparse(rows, g[rows], g.shape)})
        updates[rows] = late.step
    catch_up(None)
    assert_same_bits(q, p)
    for slot in late.slots:
        assert_same_bits(late.state[slot]["w"], in_time.state[slot]["w"])


BAD_PARTS = {
    "columns must be in": lambda v, c, s: (v, c + 99, s),
    "got -1": lambda v, c, s: (v, c * 0 - 1, s),
    "starts must ascend": lambda v, c, s: (v, c, s[::-1]),
    "starts must ascend from 0": lambda v, c, s: (v, c, s[:-1]),
    "the number of entries": lambda v, c, s: (v, c, s[:0]),
    "columns must be an int64": lambda v, c, s: (v, c.astype(np.int32), s),
    "starts must be an int64": lambda v, c, s: (v, c, s.astype(float)),
    "values must be a contiguous": lambda v, c, s: (v[1:], c, s),
    "values must be": lambda v, c, s: (None, c, s),
}


@pytest.mark.parametrize("words", BAD_PARTS)
def test_native_code_takes_no_bad_parts(words):
    given = BAD_PARTS[words](*parts(matrix(6, 9)))
    with pytest.raises((TypeError, ValueError), match=words):
        _core.sparse_product(*given, np.ones((9, 3)), None, None)
    with pytest.raises((TypeError, ValueError), match=words):
        _core.sparse_transposed(*given, 9)


def test_native_code_takes_no_bad_tables():
    p, state, updates = np.ones((4, 3)), np.ones((4, 3)), np.zeros(4, np.int64)
    good = dict(zip(["kind", "p", "state", "updates", "rows"], (3, p, (state,), updates, None), strict=True))
    for bad, words in (
        ({"kind": 9}, "unknown optimizer"),
        ({"p": p[:, :2]}, "contiguous and have the shape|contiguous"),
        ({"state": ()}, "what the optimizer has"),
        ({"state": (state[:3],)}, "the shape of p"),
        ({"updates": updates[1:]}, "as many numbers as p has rows"),
        ({"updates": updates - 1}, "updates must be >= 0"),
        ({"rows": np.array([1, 1])}, "rows must ascend"),
        ({"rows": np.array([4])}, r"within \[0, 4\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            _core.catch_up(_core.InUse(), *(good | bad).values(), 0.1, 0.0, 0.9, 0.99, 1e-8, 5)
    with pytest.raises(ValueError, match="out must be"):
        _core.sparse_product(*parts(matrix(4, 4)), p, None, p)


def test_rows_of_a_csr():
    x = matrix(9, 6)
    rows = CSR(*parts(x), 6)
    for chosen in (
        slice(None),
        slice(2, 5),
        slice(7, 3),
        slice(8, 99),
        np.array([3, 3, 0]),
        np.array([], int),
    ):
        assert len(rows[chosen]) == len(x.toarray()[chosen])
        np.testing.assert_array_equal(rows[chosen].to_dense(), x.toarray()[chosen])


# Estimators

X = matrix(150, 80, 0.1)
LABELS = np.random.default_rng(0).integers(0, 3, 150)
PARAMS = {"hidden_layer_sizes": (30,), "max_iter": 3, "batch_size": 32, "random_state": 0, "alpha": 0.1}


def assert_same_models(one, other):
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        assert_same_bits(a, b)
    assert one.loss_curve_ == other.loss_curve_
    assert one.loss_ == other.loss_


def fits(x=X, y=LABELS, estimator=MLPClassifier, **params):
    return [estimator(**PARAMS | params).fit(rows, y) for rows in (x.toarray(), x)]


@pytest.mark.parametrize("solver", [*SOLVERS, "lbfgs"])
def test_training_is_that_on_dense_rows(isa, dtype, solver):
    dense, sparse = fits(X.astype(dtype), solver=solver)
    assert sparse.coefs_[0].dtype == dtype
    assert_same_models(sparse, dense)
    rows = X.astype(dtype)
    assert_same_bits(dense.predict_proba(rows), dense.predict_proba(rows.toarray()))
    assert_same_bits(sparse.predict_proba(rows), dense.predict_proba(rows))
    for few in (1, 2, 5):
        assert_same_bits(sparse.predict_proba(rows[:few]), dense.predict_proba(rows[:few].toarray()))
    assert sparse.score(rows, LABELS) == dense.score(rows.toarray(), LABELS)


@pytest.mark.parametrize(
    "params",
    [
        {"dropout": 0.3, "hidden_layer_sizes": (30, 28)},
        {"batch_norm": True},
        {"activation": "identity"},
        {"activation": "gelu", "dropout": 0.1, "batch_norm": True, "solver": "adamw"},
        {"early_stopping": True},
        {"shuffle": False, "batch_size": 149, "batch_norm": True},
        {"learning_rate": "adaptive", "solver": "sgd", "tol": 1, "n_iter_no_change": 1, "max_iter": 8},
        {"alpha": 0, "solver": "sgd", "momentum": 0},
    ],
    ids=str,
)
def test_so_it_is_with_other_parameters(params):
    assert_same_models(*fits(**params))


def test_without_hidden_layers_it_is_to_rounding():
    dense, sparse = fits(hidden_layer_sizes=())
    np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("params", [{"class_weight": "balanced"}, {"label_smoothing": 0.1}], ids=str)
def test_losses_that_eager_layers_round_otherwise(params):
    dense, sparse = fits(**params)
    np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=1e-9, atol=1e-12)
    assert sparse.loss_ == pytest.approx(dense.loss_, rel=1e-12)


def test_same_bits_on_any_number_of_threads(team):
    alone = MLPClassifier(**PARAMS).fit(X, LABELS)
    with fastnn.threads(1):
        assert_same_models(MLPClassifier(**PARAMS).fit(X, LABELS), alone)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "gaussian"])
def test_regression(loss):
    y = X[:, :2].toarray().sum(axis=1)
    dense, sparse = fits(y=y, estimator=MLPRegressor, loss=loss)
    assert_same_models(sparse, dense)
    assert_same_bits(sparse.predict(X), dense.predict(X.toarray()))


def test_it_learns_what_scikit_learns_does():
    losses = [
        m.MLPClassifier((30,), max_iter=20, random_state=0, alpha=1e-4, learning_rate_init=0.01)
        .fit(X, LABELS)
        .loss_
        for m in (sk, fastnn.estimators)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_weights_parts_and_starting_again():
    weight = np.random.default_rng(0).uniform(size=150) * (np.arange(150) % 7 > 0)
    models = [MLPClassifier(**PARAMS, warm_start=True) for _ in range(3)]
    for model, rows in zip(models, [(X.toarray(),) * 4, (X,) * 4, (X, X.toarray()) * 2], strict=True):
        model.fit(rows[0], LABELS, weight)
        model.partial_fit(rows[1], LABELS)
        model.fit(rows[2], LABELS)
        model.partial_fit(rows[3][:40], LABELS[:40], weight[:40])
        assert type(model._trainer.net) is fastnn.Sequential
    for model in models[1:]:
        assert_same_models(model, models[0])
        again = pickle.loads(pickle.dumps(model))
        assert_same_models(
            again.partial_fit(X, LABELS), copy.deepcopy(models[0]).partial_fit(X.toarray(), LABELS)
        )


@pytest.mark.parametrize("held", [X, X.toarray()], ids=["sparse", "dense"])
@pytest.mark.parametrize("rows", [X, X.toarray()], ids=["sparse", "dense"])
def test_validation_and_callbacks(rows, held, tmp_path):
    seen = []

    class Looks:
        def on_slice(self, trainer, history):
            seen.append(trainer.net.params["0.W"].copy())

        def __call__(self, trainer, history):
            seen.append(trainer.net.params["0.W"].copy())

    model = MLPClassifier(**PARAMS)
    file = tmp_path / "run.npz"
    others = [fastnn.callbacks.EarlyStopping("val_loss", patience=1), fastnn.callbacks.Checkpoint(file)]
    model.fit(rows, LABELS, validation=(held, LABELS), callbacks=[*others, Looks()])
    dense = MLPClassifier(**PARAMS).fit(X.toarray(), LABELS, validation=(X.toarray(), LABELS))
    assert_same_models(model, dense)
    assert model.validation_scores_ == dense.validation_scores_
    assert_same_bits(seen[-1], model.coefs_[0])
    assert_same_bits(fastnn.Sequential.load(file).predict(X.toarray()), model._net.predict(X.toarray()))


def test_who_looks_between_steps_sees_all_updates(monkeypatch):
    monkeypatch.setattr("fastnn.estimators.course.SLICE_SECONDS", 0)
    monkeypatch.setattr("fastnn.trainer.SLICE_SECONDS", 0)

    class Looks:
        def __init__(self):
            self.seen = {}

        def on_slice(self, trainer, history):
            self.seen[trainer.steps] = trainer.net.params["0.W"].copy()

        def __call__(self, trainer, history):
            pass

    looks = [Looks(), Looks()]
    for rows, look in zip((X.toarray(), X), looks, strict=True):
        MLPClassifier(**PARAMS).fit(rows, LABELS, callbacks=[look])
    assert len(looks[1].seen) == 15
    for step in looks[0].seen.keys() & looks[1].seen.keys():
        assert_same_bits(looks[0].seen[step], looks[1].seen[step])


def test_lazy_updates_are_of_what_a_batch_meets():
    empty = np.flatnonzero(X[:, :20].getnnz(axis=0) == 0)
    few = X.tolil()
    few[:, :20] = 0
    few = few.tocsr()
    for solver in SOLVERS:
        models = [
            MLPClassifier(**PARAMS, solver=solver, sparse_update=how).fit(few, LABELS)
            for how in ("dense", "lazy")
        ]
        start = MLPClassifier(**PARAMS | {"learning_rate_init": 1e-300, "alpha": 0, "solver": "sgd"}).fit(
            few, LABELS
        )
        assert_same_bits(models[1].coefs_[0][:20], start.coefs_[0][:20])
        assert (models[0].coefs_[0][:20] != start.coefs_[0][:20]).any()  # the penalty
        assert (models[1].coefs_[0][20:] != start.coefs_[0][20:]).any()
        assert models[1].loss_ == pytest.approx(models[0].loss_, rel=0.1)
    assert len(empty) < 20
    same = {"solver": "sgd", "momentum": 0, "alpha": 0}
    assert_same_models(
        *(MLPClassifier(**PARAMS | same, sparse_update=how).fit(X, LABELS) for how in ("dense", "lazy"))
    )


@pytest.mark.parametrize(
    "wrap",
    [
        ss.csr_matrix,
        ss.csr_array,
        ss.csc_array,
        ss.coo_array,
        ss.bsr_array,
        ss.dia_array,
        ss.lil_array,
        ss.dok_array,
    ],
)
@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
def test_formats(wrap):
    model = MLPClassifier(**PARAMS).fit(X, LABELS)
    assert_same_models(MLPClassifier(**PARAMS).fit(wrap(X), LABELS), model)
    assert_same_bits(model.predict_proba(wrap(X)), model.predict_proba(X))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, np.int32, bool, np.longdouble])
def test_dtypes(kind):  # SciPy has no float16
    assert_same_models(*fits((X * 5).astype(kind)))


def test_indices_of_64_bits_in_any_order_and_repeated():
    x = X.copy()
    wide = ss.csr_matrix((x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    backwards = ss.csr_matrix(
        (
            np.concatenate([x.data[a:b][::-1] for a, b in zip(x.indptr, x.indptr[1:], strict=False)]),
            np.concatenate([x.indices[a:b][::-1] for a, b in zip(x.indptr, x.indptr[1:], strict=False)]),
            x.indptr,
        ),
        x.shape,
    )
    twice = ss.csr_matrix((np.repeat(x.data, 2) / 2, np.repeat(x.indices, 2), x.indptr * 2), x.shape)
    model = MLPClassifier(**PARAMS).fit(x, LABELS)
    for other in (wide, backwards, twice):
        before = [a.copy() for a in (other.data, other.indices, other.indptr)]
        assert_same_models(MLPClassifier(**PARAMS).fit(other, LABELS), model)
        assert_same_bits(model.predict_proba(other), model.predict_proba(x))
        for array, was in zip((other.data, other.indices, other.indptr), before, strict=True):
            np.testing.assert_array_equal(array, was)


ROW_OF_5 = np.repeat(np.arange(150), X.getnnz(axis=1))[5]


def corrupted(name, value):
    x = ss.csr_matrix(X, copy=True)
    getattr(x, name)[5] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (lambda: corrupted("indices", 80), "indices|column"),
        (lambda: corrupted("indices", -1), "indices|column"),
        (lambda: corrupted("indptr", 10**6), "indptr|index pointer"),
        (lambda: corrupted("data", np.nan), f"Input X contains NaN, first in row {ROW_OF_5}"),
        (lambda: corrupted("data", np.inf), "Input X contains infinity"),
        (lambda: ss.csc_array(corrupted("data", np.nan)), f"NaN, first in row {ROW_OF_5}"),
        (lambda: X[:, :7], "7 features.*expecting 80"),
        (lambda: X[:0], r"0 sample\(s\)"),
        (lambda: X.astype(complex), "Complex data not supported"),
    ],
)
def test_bad_rows_are_refused(x, words):
    model = MLPClassifier(**PARAMS).fit(X, LABELS)
    before = [a.copy() for a in model.coefs_]
    for call in (model.predict, model.predict_proba, lambda x: model.partial_fit(x, LABELS[: x.shape[0]])):
        with pytest.raises(ValueError, match=words):
            call(x())
    for a, b in zip(model.coefs_, before, strict=True):
        assert_same_bits(a, b)


def test_rows_and_columns_without_entries():
    x = ss.csr_matrix((60, 5))
    assert_same_models(*fits(x, LABELS[:60]))
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        MLPClassifier().fit(ss.csr_matrix((60, 0)), LABELS[:60])
    lonely = ss.csr_matrix(([1.0], ([59], [4])), (60, 5))
    assert_same_models(*fits(lonely, LABELS[:60]))


def test_the_matrix_is_never_dense():
    rng = np.random.default_rng(0)
    n, width = 4000, 10**6  # 32 GB if it were
    x = ss.csr_matrix((np.ones(3 * n), rng.integers(0, width, 3 * n), np.arange(0, 3 * n + 1, 3)), (n, width))
    model = MLPClassifier((1,), max_iter=1, batch_size=2000, random_state=0).fit(x, np.arange(n) % 2)
    assert model.predict_proba(x).shape == (n, 2)
    assert "W" not in model._net.layers[0].grads


def test_threads_may_predict():
    model = MLPClassifier(**PARAMS).fit(X, LABELS)
    expected = model.predict_proba(X)
    with ThreadPoolExecutor(4) as pool:
        for probabilities in pool.map(lambda _: model.predict_proba(X), range(40)):
            assert_same_bits(probabilities, expected)


def test_what_makes_sparse_rows():
    frame = pd.DataFrame({"city": ["Paris", "Rome", "Rome", "Bonn"] * 20, "size": np.arange(80.0) % 3})
    columns = ColumnTransformer(
        [("city", OneHotEncoder(), ["city"])], remainder="passthrough", sparse_threshold=1
    )
    model = make_pipeline(columns, MLPClassifier((8,), max_iter=60, learning_rate_init=0.01, random_state=0))
    assert ss.issparse(columns.fit_transform(frame))
    assert model.fit(frame, frame["city"] == "Rome").score(frame, frame["city"] == "Rome") == 1
    texts = ["a dog barks", "a cat purrs", "dogs bark", "cats purr"] * 10
    animals = make_pipeline(TfidfVectorizer(analyzer="char"), MLPClassifier(max_iter=50, random_state=0))
    assert animals.fit(texts, ["dog", "cat"] * 20).score(texts, ["dog", "cat"] * 20) == 1


def test_one_thread_at_a_time_trains():
    model = MLPClassifier(**PARAMS).fit(X, LABELS)

    def predicts(trainer, history):
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="in use by another thread"):
            pool.submit(model.predict, X).result()

    model.set_params(warm_start=True).fit(X, LABELS, callbacks=[predicts])
