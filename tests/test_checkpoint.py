"""Files of arrays with a description: round trips, atomic writes, refusals.

Exact resume of a training is in the tests of the trainers.
"""

import builtins
import errno
import io
import json
import os
import resource
import signal
import stat
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastnn
import fastnn.reference
from fastnn import checkpoint
from native import PYTHON

ARRAYS = {
    "0.W": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "a/b": np.array(2.5),
    "file": np.zeros((0, 3)),
    "7.b": np.array([np.nan, -0.0, np.inf]),
}
DESCRIPTION = '{"format": "fastnn", "version": 1, "kind": "thing"}'
META = {"layers": [{"layer": "Affine", "n": 2**63}], "lr": 0.1, "nothing": None, "text": "ü"}


@pytest.fixture(params=["npz", "safetensors"])
def path(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"file.{request.param}"


@pytest.mark.parametrize("kind", [str, Path])
def test_round_trip(path, kind):
    checkpoint.write(kind(path), "thing", ARRAYS, META)
    arrays, meta = checkpoint.read(kind(path), "other", "thing")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()
    assert meta == META | {"format": "fastnn", "version": 1, "kind": "thing"}
    assert os.listdir(path.parent) == [path.name]


def test_same_content_same_bytes(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    first = path.read_bytes()
    checkpoint.write(path, "thing", ARRAYS, META)
    assert path.read_bytes() == first


def test_npz_is_plain_numpy(tmp_path):
    checkpoint.write(tmp_path / "x", "thing", ARRAYS, META)  # a name without a suffix is taken as it is
    with np.load(tmp_path / "x", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["0.W"], ARRAYS["0.W"])
        assert json.loads(str(archive["__fastnn__"]))["text"] == "ü"


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_permissions_are_the_usual(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    (path.parent / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "plain").stat().st_mode)


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    checkpoint.write(path, "thing", ARRAYS, META)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.write(path, "thing", ARRAYS, {"x": object()})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write(path, "thing", ARRAYS, {"x": float("nan")})
    with pytest.raises(TypeError, match=r"^arrays\['a'\] must hold real numbers"):
        checkpoint.write(path, "thing", {"a": np.array([object()])}, META)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, "thing", {}, META)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_cut_anywhere_is_refused(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    whole = path.read_bytes()
    for size in {0, 1, 4, 30, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{path.name} is"):
            checkpoint.read(path, "thing")


def test_damaged_bytes_never_give_other_errors(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = accepted = 0
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(3):
            broken[rng.integers(len(broken))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            checkpoint.read(path, "thing")
        except ValueError as error:
            refused += path.name in str(error)
        else:
            accepted += 1
    assert refused + accepted == 300
    assert refused > 50


def test_no_pickle(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{"evil": 1}], dtype=object), __fastnn__=np.array(DESCRIPTION))
    with pytest.raises(ValueError, match="is damaged: 'a' holds no real numbers but dtype object"):
        checkpoint.read(path, "thing")


def zipped(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "is not a NumPy archive, or is truncated"),
        (npy(np.zeros(3)), "is not a NumPy archive"),
        (zipped({}), "is not a file of fastnn"),
        (zipped({"a.npy": npy(np.zeros(3))}), "is not a file of fastnn"),
        (zipped({"__fastnn__": "{}"}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.zeros(3))}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.array("{"))}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.array("[" * 100_000))}), "is not a file of fastnn"),
        (zipped({"__fastnn__.npy": npy(np.array('{"format": "other"}'))}), "is not a file of fastnn"),
        (
            zipped({"__fastnn__.npy": npy(np.array('{"format": "fastnn", "version": 9}'))}),
            "has version 9, this fastnn reads",
        ),
        (
            zipped({"__fastnn__.npy": npy(np.array('{"format": "fastnn", "version": 1, "kind": "cat"}'))}),
            "must hold a thing or other, got 'cat'",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checkpoint.read(path, "thing", "other")


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF, 0xD800])
@pytest.mark.parametrize("order", "<>")
def test_a_description_of_what_is_no_character(code, order):
    text = np.array(DESCRIPTION, f"{order}U{len(DESCRIPTION)}")
    codes = np.frombuffer(text.tobytes(), f"{order}u4").copy()
    head = npy(text)[: -text.nbytes]
    for broken in (False, True):
        codes[5] = code if broken else codes[5]
        file = io.BytesIO(zipped({"__fastnn__.npy": head + codes.tobytes()}))
        if broken:
            with pytest.raises(ValueError, match="the file is damaged"):
                checkpoint.read(file, "thing")
        else:
            assert checkpoint.read(file, "thing")[1]["kind"] == "thing"


def test_a_foreign_safetensors_file(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"a": np.zeros(3)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="is not a file of fastnn"):
        checkpoint.read(tmp_path / "x.safetensors", "thing")


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        checkpoint.read(path, "thing")


@pytest.mark.parametrize("bad", [3, None, b"x.npz"])
def test_a_path_that_is_none(bad):
    with pytest.raises(TypeError, match=r"^path must be a string or a path"):
        checkpoint.read(bad, "thing")
    with pytest.raises(TypeError, match=r"^path must be a string or a path"):
        checkpoint.write(bad, "thing", {}, {})


def test_without_safetensors(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    path = tmp_path / "x.safetensors"
    for call in (lambda: checkpoint.write(path, "thing", {}, {}), lambda: checkpoint.read(path, "thing")):
        with pytest.raises(ImportError, match=r"pip install fastnn-cpu\[safetensors\]"):
            call()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["m.h5", "m.pt", "m.npz.bak", "model.v2"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"path must end in .npz or .safetensors, got '.*{name}'"):
        checkpoint.write(tmp_path / name, "thing", ARRAYS, META)
    assert os.listdir(tmp_path) == []


def test_a_suffix_in_capitals(tmp_path):
    pytest.importorskip("safetensors")
    checkpoint.write(tmp_path / "X.SafeTensors", "thing", ARRAYS, META)
    assert (tmp_path / "X.SafeTensors").read_bytes()[8:9] == b"{"
    checkpoint.read(tmp_path / "X.SafeTensors", "thing")


# Where it is written


def test_through_a_symbolic_link(path):
    link = path.with_name(f"link{path.suffix}")
    for target in (path, path.name):  # the second relative
        link.symlink_to(target)
        checkpoint.write(link, "thing", ARRAYS, META)
        assert link.is_symlink()
        assert not path.is_symlink()
        checkpoint.read(path, "thing")
        link.unlink()
        path.unlink()


def test_mode_and_owner_are_kept(path):
    checkpoint.write(path, "thing", {}, META)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()
    before_umask = os.umask(0o077)
    try:
        checkpoint.write(path, "thing", ARRAYS, META)
    finally:
        os.umask(before_umask)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_an_owner_that_cannot_be_kept(path, monkeypatch):
    checkpoint.write(path, "thing", {}, META)
    path.chmod(0o600)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    checkpoint.write(path, "thing", ARRAYS, META)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_read_only_file_is_refused(path):
    checkpoint.write(path, "thing", {}, META)
    path.chmod(0o444)
    before = path.read_bytes()
    with pytest.raises(PermissionError, match=r"read-only \(mode 0444\)"):
        checkpoint.write(path, "thing", ARRAYS, META)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_long_name(path):
    long = path.with_name("n" * (254 - len(path.suffix)) + path.suffix)
    for _ in range(2):
        checkpoint.write(long, "thing", ARRAYS, META)
    assert os.listdir(path.parent) == [long.name]
    checkpoint.read(long, "thing")


def test_a_fifo_and_a_device_are_written_to(path):
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    checkpoint.write(path, "thing", ARRAYS, META)
    reader.join()
    assert stat.S_ISFIFO(path.stat().st_mode)
    path.unlink()
    path.write_bytes(got[0])
    assert checkpoint.read(path, "thing")[0].keys() == ARRAYS.keys()
    checkpoint.write(os.devnull, "thing", ARRAYS, META)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(IsADirectoryError):
        checkpoint.write(path.parent, "thing", ARRAYS, META)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.EBUSY, errno.EXDEV])
@pytest.mark.parametrize("when", ["open", "replace"])
def test_what_cannot_be_replaced_is_written_in_place(path, monkeypatch, error, when):
    checkpoint.write(path, "thing", {"a": np.zeros(10_000)}, META)
    inode = path.stat().st_ino
    real = getattr(os, when)

    def refuse(name, *arguments, **options):
        if str(name).endswith(".tmp"):
            raise OSError(error, os.strerror(error), name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, when, refuse)
    checkpoint.write(path, "thing", ARRAYS, META)
    assert path.stat().st_ino == inode
    assert checkpoint.read(path, "thing")[0].keys() == ARRAYS.keys()
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_is_a_mount_by_itself(path):
    other = path.with_name("other")
    other.touch()
    path.touch()
    if subprocess.run(["mount", "--bind", other, path], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        checkpoint.write(path, "thing", ARRAYS, META)
        assert checkpoint.read(path, "thing")[0].keys() == ARRAYS.keys()
    finally:
        subprocess.run(["umount", path], check=True)
    assert other.stat().st_size > 0
    assert sorted(os.listdir(path.parent)) == sorted([path.name, "other"])


def test_no_directory(path):
    with pytest.raises(FileNotFoundError) as caught:
        checkpoint.write(path.parent / "nowhere" / path.name, "thing", ARRAYS, META)
    assert caught.value.filename == str(path.parent / "nowhere" / path.name)


def test_a_disk_that_is_full_leaves_the_old_file(path):
    checkpoint.write(path, "thing", ARRAYS, META)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.write(path, "thing", {"a": np.zeros(100_000)}, META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


KILLED = """
import sys, numpy as np
from fastnn import checkpoint
arrays = {"a": np.zeros(4_000_000)}
print("begun", flush=True)
while True:
    checkpoint.write(sys.argv[1], "thing", arrays, {})
"""


def test_what_a_killed_process_has_left_goes_with_the_next_save(path):
    for _ in range(20):
        child = subprocess.Popen([*PYTHON, "-c", KILLED, path], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(0.05)
        child.kill()
        child.communicate()
        if any(name.endswith(".tmp") for name in os.listdir(path.parent)):
            break
    else:
        pytest.skip("never killed in the middle of a save")
    others = [path.with_name(name) for name in ("mine.tmp", ".fastnn-00000000-00000000.tmp")]
    for other in others:  # that of another file stays
        other.touch()
    checkpoint.write(path, "thing", ARRAYS, META)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *(other.name for other in others)])


def test_saves_of_one_file_side_by_side(path):
    def save(i):
        for _ in range(30):
            checkpoint.write(path, "thing", {"a": np.full(1000, i)}, META)

    threads = [threading.Thread(target=save, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            a = checkpoint.read(path, "thing")[0]["a"]
            assert (a == a[0]).all()
    for thread in threads:
        thread.join()
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("module", [fastnn, fastnn.reference], ids=["native", "reference"])
def test_files_in_memory(module, tmp_path):
    net = module.mlp([3, 4, 2], batch_norm=True, seed=0)
    trainer = module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam())
    trainer.fit(np.ones((4, 3)), [0, 1, 0, 1], 2, progress=False)
    for thing in (net, trainer):
        file = io.BytesIO()
        thing.save(file)
        again = type(thing).load(file)  # from wherever it stands
        for name, array in getattr(thing, "net", thing).state_dict().items():
            np.testing.assert_array_equal(getattr(again, "net", again).state_dict()[name], array)
        with open(tmp_path / "x", "wb") as file:
            thing.save(file)
        with open(tmp_path / "x", "rb") as file:
            type(thing).load(file)
        with open(tmp_path / "x", "w") as file, pytest.raises(TypeError, match="or a binary file"):
            thing.save(file)
        with pytest.raises(ValueError, match="the file is not a NumPy archive"):
            type(thing).load(io.BytesIO(b"hello"))


# What is read


def peak_of_refusing(path, kind="Sequential"):
    """Return the error of loading a file, and how many MB more a process takes for it than without."""
    code = f"""
import resource, fastnn
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    fastnn.{kind}.load({str(path)!r})
except Exception as error:
    print(type(error).__name__, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    error, grown = done.stdout.strip().rsplit("\n", 1)
    return error, int(grown)


def small_net(tmp_path):
    path = tmp_path / "net.npz"
    net = fastnn.mlp([4, 3], seed=0)
    net.save(path)
    return path, *checkpoint.read(path, "network")


def test_layers_that_the_arrays_do_not_fit_take_no_memory(tmp_path):
    path, arrays, meta = small_net(tmp_path)
    for layer in (
        {"layer": "BatchNorm", "n": 10**8, "momentum": 0.9, "eps": 1e-5, "dtype": "float64"},
        {"layer": "Affine", "n_in": 20_000, "n_out": 20_000, "dtype": "float32"},
        {"layer": "Embedding", "vocab": 10**7, "dim": 100, "dtype": "float32"},
    ):
        checkpoint.write(path, "network", arrays, {"layers": [*meta["layers"], layer]})
        error, grown = peak_of_refusing(path)
        assert "does not describe a network: ValueError: missing" in error
        assert grown < 50


def test_an_entry_that_claims_more_than_it_has_takes_no_memory(tmp_path):
    path, _, meta = small_net(tmp_path)
    meta["layers"][0] |= {"n_in": 20_000, "n_out": 20_000}
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"shape": (20_000, 20_000), "fortran_order": False, "descr": "<f4"}
    )
    entries = {"__fastnn__": npy(np.array(json.dumps(meta))), "0.W": head.getvalue()}
    entries["0.b"] = npy(np.zeros(20_000, np.float32))
    path.write_bytes(zipped({f"{name}.npy": content for name, content in entries.items()}))
    error, grown = peak_of_refusing(path)
    assert "is damaged: '0.W' is not of the size that its header tells" in error
    assert grown < 50


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("name", ["surplus", "optimizer.m.0.W", "0.W"])
def test_entries_that_do_not_fit_are_not_inflated(tmp_path, kind, name):
    path, arrays, meta = small_net(tmp_path)
    path.unlink()
    meta["kind"] = "trainer"
    meta |= {"optimizer": fastnn.Adam().config(), "loss": "SoftmaxCrossEntropy", "updates": 0}
    arrays[name] = np.zeros((60_000, 500))
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("__fastnn__.npy", npy(np.array(json.dumps(meta))))
        for key, array in arrays.items():
            archive.writestr(f"{key}.npy", npy(array))
    assert path.stat().st_size < 1_000_000
    error, grown = peak_of_refusing(path, "Trainer")
    assert error.startswith("ValueError")
    assert grown < 50


def test_a_description_that_is_a_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__fastnn__.npy", npy(np.array(" " * 50_000_000)))
    error, grown = peak_of_refusing(tmp_path / "x.npz")
    assert "is not a file of fastnn" in error
    assert grown < 50


def test_a_compressed_file_is_read(tmp_path):
    path, arrays, meta = small_net(tmp_path)
    W = fastnn.Sequential.load(path).params["0.W"]
    np.savez_compressed(path, **arrays, __fastnn__=np.array(json.dumps(meta)))
    np.testing.assert_array_equal(fastnn.Sequential.load(path).params["0.W"], W)
    arrays["0.W"] = np.asfortranarray(arrays["0.W"])
    np.savez(path, **arrays, __fastnn__=np.array(json.dumps(meta)))
    np.testing.assert_array_equal(fastnn.Sequential.load(path).params["0.W"], W)


def test_a_flipped_bit_is_seen(tmp_path):
    path, *_ = small_net(tmp_path)
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("0.W.npy")
    whole[info.header_offset + 200] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="is damaged"):
        fastnn.Sequential.load(path)


@pytest.mark.parametrize("module", [fastnn, fastnn.reference], ids=["native", "reference"])
def test_a_lack_of_memory_is_called_so(tmp_path, module, monkeypatch):
    path, *_ = small_net(tmp_path)

    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    with pytest.raises(MemoryError):
        module.Sequential.load(path)
    monkeypatch.undo()
    monkeypatch.setattr(module.Affine, "from_config", refuse)
    with pytest.raises(MemoryError):
        module.Sequential.load(path)


def test_schedules_nested_without_end_in_a_file(tmp_path):
    path = tmp_path / "run.npz"
    net = fastnn.mlp([4, 3], seed=0)
    fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1)).save(path)
    arrays, meta = checkpoint.read(path, "trainer")
    lr = 0.1
    for _ in range(600):
        lr = {"name": "WarmUp", "schedule": lr, "steps": 1}
    meta["optimizer"]["lr"] = lr
    checkpoint.write(path, "trainer", arrays, meta)
    with pytest.raises(ValueError, match=r"does not describe a trainer: .* schedules within schedules"):
        fastnn.Trainer.load(path)


# Safetensors


def test_what_is_handed_to_safetensors_is_contiguous(tmp_path, monkeypatch):
    numpy = pytest.importorskip("safetensors.numpy")
    save, handed = numpy.save, []

    def look(arrays, **options):
        handed.extend(arrays.values())
        return save(arrays, **options)

    monkeypatch.setattr(numpy, "save", look)
    a = np.arange(24.0).reshape(2, 3, 4)
    arrays = {
        "transposed": a.T,
        "strided": a[:, ::2, ::-1],
        "fortran": np.asfortranarray(a),
        "swapped": a.astype(">f8"),
        "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    }
    checkpoint.write(tmp_path / "x.safetensors", "thing", arrays, META)
    assert len(handed) == len(arrays)
    assert all(array.flags.c_contiguous for array in handed)
    read, _ = checkpoint.read(tmp_path / "x.safetensors", "thing")
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def raw_safetensors(dtype, size, metadata):
    header = {"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}}
    text = json.dumps(header | ({"__metadata__": metadata} if metadata else {})).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * size)


@pytest.mark.parametrize("metadata", [None, {"__fastnn__": DESCRIPTION}], ids=["foreign", "ours"])
@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1)])
def test_dtypes_that_numpy_does_not_have_are_named(tmp_path, dtype, size, metadata):
    pytest.importorskip("safetensors")
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(dtype, size, metadata))
    with pytest.raises(
        ValueError, match=f"x.safetensors holds 'a' of dtype {dtype}, which NumPy does not have"
    ):
        checkpoint.read(tmp_path / "x.safetensors", "thing")


def test_a_foreign_file_of_safetensors_is_not_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"a": np.ones(25_000_000, np.float32)}, tmp_path / "x.safetensors")
    error, grown = peak_of_refusing(tmp_path / "x.safetensors")
    assert "is not a file of fastnn" in error
    assert grown < 50
