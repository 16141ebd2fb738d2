"""Networks from and to Keras 3, and its files read without it: what is converted predicts the same."""

import importlib.util
import io
import json
import os
import re
import zipfile

import numpy as np
import pytest

import fastnn
from fastnn import reference
from fastnn.interchange import from_keras, to_keras
from networks import NETS

h5py = pytest.importorskip("h5py", reason="it reads the files of Keras")

RNG = np.random.default_rng(0)


@pytest.fixture
def keras():
    """Return Keras, which computes with NumPy unless the environment says otherwise."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("the other side of the bridge is Keras")
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    import keras

    return keras


def close(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, abs(b).max()))


def names(net):
    return [type(layer).__name__ for layer in net.layers]


# Files, written as Keras 3.15 writes them


def entry(kind, name=None, dtype="float32", module="keras.layers", **config):
    """Return the configuration of a layer; `inputs` are the names of those that a functional one takes."""
    inputs, kwargs = config.pop("inputs", None), config.pop("kwargs", {})
    name = name or kind.lower()
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": dtype}}
    config = {"name": name, "trainable": True, "dtype": policy, **config}
    made = {"module": module, "class_name": kind, "config": config, "registered_name": None}
    if inputs is not None:
        tensors = [
            {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}} for name in inputs
        ]
        args = [tensors] if len(tensors) > 1 else tensors
        made |= {"name": name, "inbound_nodes": [{"args": args, "kwargs": kwargs}] if inputs else []}
    return made


def start(*shape, **options):
    return entry("InputLayer", "start", batch_shape=[None, *shape], **options)


def sequential(*entries, name="model"):
    return {"module": "keras", "class_name": "Sequential", "config": {"name": name, "layers": list(entries)}}


def functional(*entries, outputs, name="model"):
    ends = {"input_layers": ["start", 0, 0], "output_layers": [outputs, 0, 0]}
    config = {"name": name, "layers": list(entries), **ends}
    return {"module": "keras.src.models.functional", "class_name": "Functional", "config": config}


def fill(group, model, arrays):
    counts = {}
    for layer in model["config"]["layers"]:
        kind, name = layer["class_name"], layer["config"]["name"]
        key = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        i = counts[key] = counts.get(key, -1) + 1
        own = group.create_group(f"layers/{key}_{i}" if i else f"layers/{key}")
        if "layers" in layer["config"]:
            fill(own, layer, arrays)
        stored = own.create_group("vars")
        stored.attrs["name"] = name
        for j, array in enumerate(arrays.get(name, [])):
            stored[str(j)] = array


def archive(config, weights, compression=zipfile.ZIP_STORED):
    """Return a file of these parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as z:
        z.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        for name, content in (("config.json", config), ("model.weights.h5", weights)):
            if content is not None:
                z.writestr(name, content)
    file.seek(0)
    return file


def stored(model, arrays, change=None, compression=zipfile.ZIP_STORED):
    """Return a file of a model."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        fill(file, model, arrays)
        if change is not None:
            change(file)
    return archive(json.dumps(model), content.getvalue(), compression)


W, B = RNG.normal(size=(6, 4)).astype("f4"), RNG.normal(size=4).astype("f4")
V = RNG.normal(size=(4, 4)).astype("f4")
G = RNG.uniform(1, 2, 4).astype("f4")
X = RNG.normal(size=(9, 6)).astype("f4")


def dense(name="dense", units=4, **config):
    return entry("Dense", name, units=units, use_bias=True, **{"activation": "linear", **config})


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_sequential_file(compression, tmp_path):
    model = sequential(
        start(6),
        dense("first"),  # whose group has the name of its class
        entry("BatchNormalization", axis=-1, momentum=0.99, epsilon=1e-3, center=True, scale=True),
        entry("Activation", activation="relu"),
        entry("Dropout", rate=0.25, noise_shape=None, seed=None),
        dense("dense", activation="tanh"),  # in the group "dense_1"
    )
    arrays = {"first": [W, B], "batchnormalization": [G, B, B, G * 2], "dense": [V, -B]}
    file = stored(model, arrays, compression=compression)
    net = from_keras(file)
    wanted = fastnn.Sequential(
        [
            fastnn.Affine(W, B),
            fastnn.BatchNorm(G, B, 0.99, B, G * 2, eps=1e-3),
            *(fastnn.ReLU(), fastnn.Dropout(0.25), fastnn.Affine(V, -B), fastnn.Tanh()),
        ]
    )
    assert list(map(repr, net.layers)) == list(map(repr, wanted.layers))
    for name, array in wanted.state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], array)
    (tmp_path / "a.keras").write_bytes(file.getvalue())
    np.testing.assert_array_equal(from_keras(tmp_path / "a.keras").predict(X), wanted.predict(X))


@pytest.mark.parametrize("module", ["keras.layers", "keras.src.ops.numpy"])
def test_a_functional_file_with_an_addition_and_a_model_in_it(module):
    inner = sequential(start(4), entry("LeakyReLU", negative_slope=0.3), dense(), name="inner")
    inner |= {"name": "inner", "inbound_nodes": entry("", inputs=["first"])["inbound_nodes"]}
    model = functional(
        dense("first", inputs=["start"]),
        entry("Add", module=module, inputs=["first", "inner"]),
        inner,
        dense("last", activation="softmax", inputs=["add"]),
        entry("InputLayer", "start", batch_shape=[None, 6], inputs=[]),
        outputs="last",
    )
    arrays = {"first": [W, B], "dense": [V, B], "last": [V, -B]}
    with pytest.raises(ValueError, match=r"^layer last \(Dense\), activation softmax: .*logits=True"):
        from_keras(stored(model, arrays))
    block = fastnn.Residual([fastnn.LeakyReLU(0.3), fastnn.Affine(V, B)])
    wanted = fastnn.Sequential([fastnn.Affine(W, B), block, fastnn.Affine(V, -B)])
    net = from_keras(stored(model, arrays), logits=True)
    np.testing.assert_array_equal(net.predict(X), wanted.predict(X))


@pytest.mark.parametrize(
    ("activation", "layer"),
    [
        ("linear", None),
        (None, None),
        ("relu", fastnn.ReLU()),
        ("leaky_relu", fastnn.LeakyReLU(0.2)),
        ({"class_name": "LeakyReLU", "config": {"negative_slope": 0.1}}, fastnn.LeakyReLU(0.1)),
        ({"class_name": "function", "config": "gelu"}, fastnn.GELU()),
        ("sigmoid", fastnn.Sigmoid()),
        ("tanh", fastnn.Tanh()),
        ("selu", fastnn.SELU()),
        ("silu", fastnn.SiLU()),
        ("swish", fastnn.SiLU()),
        ("softplus", fastnn.Softplus()),
        ("mish", fastnn.Mish()),
    ],
)
def test_activations(activation, layer):
    net = from_keras(stored(sequential(start(6), dense(activation=activation)), {"dense": [W, B]}))
    assert repr(net.layers[1:]) == repr(() if layer is None else (layer,))


def test_rescaled_rows_that_go_elsewhere_too():
    model = functional(
        entry("InputLayer", "start", batch_shape=[None, 6], inputs=[]),
        dense("a", inputs=["start"]),
        entry("Rescaling", scale=3.0, offset=1.0, inputs=["a"]),
        dense("b", inputs=["rescaling"]),
        entry("Add", inputs=["a", "b"]),
        outputs="add",
    )
    net = from_keras(stored(model, {"a": [W, B], "b": [V, B]}))
    a = X @ W + B
    close(net.predict(X), a + (3 * a + 1) @ V + B)


def test_a_sigmoid_stays_unless_logits_are_wanted():
    file = stored(sequential(start(6), dense(activation="sigmoid")), {"dense": [W, B]})
    assert names(from_keras(file)) == ["Affine", "Sigmoid"]
    assert names(from_keras(file, logits=True)) == ["Affine"]


def test_layers_of_rows_of_other_shapes():
    table = RNG.normal(size=(10, 2)).astype("f4")
    model = sequential(
        start(3, dtype="int32"),
        entry("Embedding", input_dim=10, output_dim=2, mask_zero=False),
        *(entry("Flatten"), dense(), entry("LayerNormalization", axis=[-1], epsilon=1e-3, center=False)),
    )
    net = from_keras(stored(model, {"embedding": [table], "dense": [W, B], "layernormalization": [G]}))
    x = RNG.integers(0, 10, (5, 3))
    assert names(net) == ["Embedding", "Affine", "LayerNorm"]
    assert not net.params["2.beta"].any()
    np.testing.assert_allclose(
        net.predict(x),
        reference.LayerNorm(G, np.zeros(4, "f4"), eps=1e-3).forward(table[x].reshape(5, 6) @ W + B),
        rtol=1e-5,
        atol=1e-5,
    )
    model = sequential(
        start(2, 3), entry("Rescaling", scale=[1, 2, 3], offset=-0.5), entry("Flatten"), dense()
    )
    x = X.reshape(-1, 2, 3)
    close(
        from_keras(stored(model, {"dense": [W, B]})).predict(x),
        (x * [1, 2, 3] - 0.5).reshape(-1, 6).astype("f4") @ W + B,
    )


@pytest.mark.parametrize(
    ("entries", "arrays", "match"),
    [
        ([entry("Conv2D")], {}, r"^layer conv2d \(Conv2D\): fastnn has no layer for keras\.layers\.Conv2D"),
        ([entry("Dense", module="mine", units=4)], {}, r"fastnn has no layer for mine\.Dense"),
        ([dense(activation="elu")], {"dense": [W, B]}, r"no layer for the activation 'elu'"),
        ([dense(activation={"module": "builtins", "class_name": "x"})], {"dense": [W, B]}, "no layer for"),
        (
            [dense(dtype="mixed_float16")],
            {"dense": [W, B]},
            r"^layer dense \(Dense\): must compute in float32",
        ),
        ([dense(), dense("b", dtype="float64")], {"dense": [W, B]}, "must compute in float32 as the others"),
        ([dense(quantization_config={"a": 1})], {"dense": [W, B]}, "quantization_config must be None"),
        ([dense(units=5)], {"dense": [W, B]}, r"vars/0: must have shape \(6, 5\), got \(6, 4\)"),
        ([dense(units="4")], {"dense": [W, B]}, "units must be an integer, got '4'"),
        ([dense()], {"dense": [W]}, "must have 2 weights, got 1"),
        ([dense()], {"dense": [W.astype("f2"), B]}, "vars/0: must be float32 or float64, got float16"),
        ([dense()], {"dense": [W.astype(">f4"), B]}, "vars/0: must be float32 or float64, got >f4"),
        ([dense()], {"dense": [W, B.astype("f8")]}, "must have the dtype float32 of the others"),
        ([entry("ReLU", max_value=6.0)], {}, r"^layer relu \(ReLU\): max_value must be None, got 6.0"),
        ([entry("LayerNormalization", axis=[1, 2])], {}, "axis must be the last one"),
        ([entry("BatchNormalization", renorm=True)], {}, "renorm must be False"),
        ([entry("Softmax"), dense()], {"dense": [W, B]}, r"^layer softmax \(Softmax\): must be the end"),
        ([entry("Dropout", rate=0.5, noise_shape=[1])], {}, "noise_shape must be None"),
        ([entry("Dropout", rate=1.0)], {}, "ratio must be a number in"),
        ([entry("Embedding", input_dim=6, output_dim=4, mask_zero=True)], {}, "mask_zero must be False"),
        (
            [dense(), entry("Embedding", input_dim=6, output_dim=4)],
            {"dense": [W, B], "embedding": [W]},
            "first",
        ),
        ([], {}, "must hold at least one layer"),
    ],
)
def test_what_cannot_be_converted(entries, arrays, match):
    with pytest.raises((TypeError, ValueError), match=match):
        from_keras(stored(sequential(start(6), *entries), arrays))


@pytest.mark.parametrize(
    ("shape", "entries", "match"),
    [
        ((2, 6), [dense()], "a Flatten must come before"),
        (
            (2, 3),
            [entry("Flatten"), entry("LayerNormalization")],
            r"^layer flatten \(Flatten\): must be followed",
        ),
        ((None,), [dense()], "must take rows of a known shape"),
    ],
)
def test_rows_that_do_not_fit(shape, entries, match):
    arrays = {"dense": [W, B], "layernormalization": [np.ones(6, "f4"), np.ones(6, "f4")]}
    with pytest.raises(ValueError, match=match):
        from_keras(stored(sequential(start(*shape), *entries), arrays))


@pytest.mark.parametrize(
    ("entries", "outputs", "match"),
    [
        ([dense("a", inputs=["start"]), dense("b", inputs=["start"])], "b", None),
        ([dense("a", inputs=["b"]), dense("b", inputs=["a"])], "b", "must have no circles"),
        ([dense("a", inputs=["none"])], "a", "must have the layer 'none'"),
        ([dense("a", inputs=["start"])], "none", "must have the layer 'none'"),
        (
            [dense("a", inputs=["start"]), dense("b", inputs=["start"]), entry("Add", inputs=["a", "b"])],
            "add",
            "must take what the layer before returns",
        ),
        ([dense("a", inputs=["start"]), entry("Add", inputs=["a", "a"])], "add", "must add to x"),
        (
            [
                *(dense("a", inputs=["start"]), entry("Add", "s", inputs=["start", "a"])),
                *(dense("b", inputs=["s"]), entry("Add", inputs=["a", "b"])),
            ],
            "add",
            "must add to x what layers make of it",
        ),
        (
            [entry("Dropout", "d", rate=0.5, inputs=["start"], kwargs={"training": True})],
            "d",
            r"^layer d \(Dropout\): must be called with its input alone, got \{'training': True\}",
        ),
        (
            [dense("a", inputs=["start"]), entry("Concatenate", inputs=["start", "a"])],
            "concatenate",
            "must take",
        ),
    ],
)
def test_functional_models_that_are_no_chain(entries, outputs, match):
    square = RNG.normal(size=(6, 6)).astype("f4")
    for layer in entries:
        layer["config"]["units"] = 6
    model = functional(
        entry("InputLayer", "start", batch_shape=[None, 6], inputs=[]), *entries, outputs=outputs
    )
    arrays = {name: [square, square[0]] for name in "ab"}
    if match is None:
        assert names(from_keras(stored(model, arrays))) == ["Affine"]
        return
    with pytest.raises(ValueError, match=match):
        from_keras(stored(model, arrays))


def replaced(make):
    """Return a change of a file of HDF5: another dataset in the place of the first weights."""

    def change(file):
        del file["layers/dense/vars/0"]
        make(file, "layers/dense/vars/0")

    return change


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda f, n: f.create_dataset(n, (6, 4), "f4", chunks=(6, 4)), "must hold 96 bytes, not compressed"),
        (lambda f, n: f.create_dataset(n, (2**40, 2**20), "f4", chunks=(1, 1)), r"must have shape \(6, 4\)"),
        (lambda f, n: f.create_dataset(n, (6, 4), "f4", external=[("/etc/hostname", 0, 96)]), "itself"),
        (
            lambda f, n: f.create_virtual_dataset(n, h5py.VirtualLayout((6, 4), "f4")),
            r"must have its numbers in model\.weights\.h5 itself|must hold 96 bytes",
        ),
        (
            lambda f, n: f.__setitem__(n, h5py.ExternalLink("/etc/hostname", "a")),
            "must be no link",
        ),
        (lambda f, n: f.__setitem__(n, h5py.SoftLink("/layers/dense/vars/1")), "must be no link"),
        (lambda f, n: f.create_group(n), "must be a dataset"),
        (lambda f, n: f.create_dataset(n, (6, 4), "i4", data=np.ones((6, 4), "i4")), "got int32"),
        (lambda f, n: f.create_dataset(n, data=h5py.Empty("f4")), "must have shape"),
        (lambda f, n: None, "must have 2 weights, got 1"),
    ],
)
def test_weights_that_are_not_there(make, match):
    file = stored(sequential(start(6), dense()), {"dense": [W, B]}, change=replaced(make))
    with pytest.raises((TypeError, ValueError), match=match):
        from_keras(file)


def test_claimed_sizes_are_refused():
    bare = entry("LayerNormalization", axis=[-1], center=False, scale=False)
    with pytest.raises(ValueError, match=r"^layer layernormalization .* without weights of their own"):
        from_keras(stored(sequential(start(2**40), bare), {}))

    def change(file):
        for i, shape in enumerate(((2**20, 2**20), (2**20,))):
            del file[f"layers/dense/vars/{i}"]
            file.create_dataset(f"layers/dense/vars/{i}", shape, "f4", chunks=(1,) * len(shape))

    model = sequential(start(2**20), dense(units=2**20))
    with pytest.raises(ValueError, match=r"must hold 4398046511104 bytes, not compressed, got 0"):
        from_keras(stored(model, {"dense": [W, B]}, change=change))


def test_damaged_files(tmp_path):
    model = sequential(start(6), dense())
    good = stored(model, {"dense": [W, B]}).getvalue()
    with zipfile.ZipFile(io.BytesIO(good)) as z:
        config, weights = z.read("config.json"), z.read("model.weights.h5")
    path = tmp_path / "a.keras"
    place = good.index(W.tobytes())
    for content, match in (
        (good[:place] + b"\x00" + good[place + 1 :], "model.weights.h5 is damaged: Bad CRC"),
        (b"", "is not a .keras file"),
        (b"\x89HDF\r\n\x1a\n", "is not a .keras file"),
        (good[: len(good) // 2], "is not a .keras file"),
        (archive(None, weights).getvalue(), "has no config.json"),
        (archive(config, None).getvalue(), "has no model.weights.h5"),
        (archive(config[:-9], weights).getvalue(), "config.json is damaged"),
        (archive(b"[" * 99999, weights).getvalue(), "config.json is damaged"),
        (archive(b"[]", weights).getvalue(), "no configuration of Keras 3"),
        (archive(b"{}", weights).getvalue(), "no configuration of Keras 3"),
        (archive(config, weights[: len(weights) // 2]).getvalue(), "model.weights.h5 is damaged"),
        (archive(config, b"").getvalue(), "model.weights.h5 is damaged"),
        (archive(b" " * 2**27, weights, zipfile.ZIP_DEFLATED).getvalue(), "config.json is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises((TypeError, ValueError), match=match):
            from_keras(path)
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "b.keras")


def test_damaged_configurations():
    """Any part of a configuration may be anything."""
    model = json.dumps(
        functional(
            entry("InputLayer", "start", batch_shape=[None, 6], inputs=[]),
            dense("a", inputs=["start"]),
            entry("BatchNormalization", inputs=["a"]),
            outputs="batchnormalization",
        )
    )
    with zipfile.ZipFile(stored(json.loads(model), {"a": [W, B], "batchnormalization": [G] * 4})) as z:
        weights = z.read("model.weights.h5")

    def places(part, place=()):
        yield place
        if isinstance(part, (dict, list)):
            for key in part if isinstance(part, dict) else range(len(part)):
                yield from places(part[key], (*place, key))

    read, refused = 0, []
    for *place, last in filter(None, places(json.loads(model))):
        for value in (None, -1, 1.5, "x", [], {}, True):
            changed = part = json.loads(model)
            for key in place:
                part = part[key]
            part[last] = value
            try:
                net = from_keras(archive(json.dumps(changed), weights))
            except (TypeError, ValueError) as error:
                refused.append(str(error))
                continue
            assert names(net)[0] == "Affine" or not names(net)
            read += 1
    assert read > 0
    begin = ("layer ", "model must be", "the model", "model.weights.h5")
    assert [text for text in refused if not text.startswith(begin)] == []


def test_arguments():
    for wrong in (None, 3, [], fastnn.mlp([2, 1]), io.BytesIO):
        with pytest.raises(TypeError, match=r"^model must be a model of Keras 3, a path or a binary file"):
            from_keras(wrong)
    with pytest.raises(TypeError, match=r"^logits must be"):
        from_keras("a.keras", logits="yes")


# Keras itself


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_a_network_there_and_back(name, keras, tmp_path):
    net = fastnn.Sequential(NETS[name](fastnn, "float32"))
    for key, array in net._state().items():
        if not key.endswith("W"):
            array[...] = np.random.default_rng(0).uniform(0.5, 1.5, array.shape)
    old = "RMSNorm" in name and not hasattr(keras.layers, "RMSNormalization")
    if old or name in ("classic dropout", "GELU by tanh"):
        with pytest.raises(ValueError, match=r"^layers\[\d\] \(\w+\): .*Keras .*has no"):
            to_keras(net)
        return
    model = to_keras(net)
    x = RNG.integers(0, 30, (9, 3)) if net.layers[0].takes_indices else RNG.normal(size=(9, 12)).astype("f4")
    close(keras.ops.convert_to_numpy(model(x)), net.predict(x))
    model.save(tmp_path / "a.keras")
    for back in (from_keras(model), from_keras(tmp_path / "a.keras")):
        assert names(back) == names(net)
        for key, array in net.state_dict().items():
            np.testing.assert_array_equal(back.state_dict()[key], array)
        np.testing.assert_array_equal(back.predict(x), net.predict(x))


@pytest.mark.filterwarnings("ignore")
def test_conventions_of_keras(keras, tmp_path):
    layers = keras.layers
    norm = getattr(layers, "RMSNormalization", layers.LayerNormalization)
    model = keras.Sequential(
        [
            layers.Input((6,)),
            *(layers.Rescaling(0.5, 1.0), layers.Dense(4, use_bias=False), layers.BatchNormalization()),
            *(layers.LeakyReLU(), layers.Dropout(0.25), layers.Dense(4, activation="leaky_relu")),
            *(layers.LayerNormalization(), layers.Dense(4, activation="gelu"), norm()),
            *(layers.ReLU(), layers.ReLU(negative_slope=0.5), layers.BatchNormalization(scale=False)),
            *(layers.Dense(4, activation=layers.LeakyReLU(0.1)), layers.Dense(3, activation="softmax")),
        ]
    )
    for weight in model.weights:
        weight.assign(RNG.uniform(0.5, 1.5, weight.shape))
    p = keras.ops.convert_to_numpy(model(X))
    model.save(tmp_path / "a.keras")
    for source in (model, str(tmp_path / "a.keras")):
        with pytest.raises(ValueError, match=r"^layer dense_?\d* \(Dense\), activation softmax: "):
            from_keras(source)
        net = from_keras(source, logits=True)
        z = net.predict(X)
        close(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), p)
        assert (net.layers[1].momentum, net.layers[1].eps, net.layers[6].eps) == (0.99, 1e-3, 1e-3)
        slopes = [layer.alpha for layer in net.layers if isinstance(layer, fastnn.LeakyReLU)]
        assert slopes == [0.3, 0.2, 0.5, 0.1]


@pytest.mark.filterwarnings("ignore")
def test_models_of_keras_that_cannot_be_converted(keras):
    layers = keras.layers
    with pytest.raises(ValueError, match="build the model"):
        from_keras(keras.Sequential([layers.Dense(3)]))

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="must be a Sequential or functional model of Keras, got Own"):
        from_keras(Own())
    x = layers.Input((6,))
    shared = layers.Dense(6)
    with pytest.raises(ValueError, match="must be called once, got 2 calls"):
        from_keras(keras.Model(x, shared(shared(x))))
    with pytest.raises(ValueError, match="must be one tensor"):
        from_keras(keras.Model(x, [layers.Dense(2)(x), layers.Dense(3)(x)]))
    with pytest.raises(TypeError, match=r"^net must be a Sequential of fastnn"):
        to_keras(keras.Sequential([layers.Dense(3)]))
