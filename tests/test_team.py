"""Teams in real programs: limits of every kind, forks, threads that cannot be had, and programs that end."""

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fastnn
from fastnn import _core
from native import SMALLER, run_python
from tolerances import assert_same_bits

PROCESSORS = len(os.sched_getaffinity(0))
SAY_LIMIT = "import fastnn; print(fastnn.get_num_threads(), fastnn.show_config()['limits'][0])"
# FASTNN_TEST_PORTABLE says that the build asks nothing of Linux: not who may run where, nor what is loaded.
linux = pytest.mark.skipif(bool(os.environ.get("FASTNN_TEST_PORTABLE")), reason="the build is a portable one")
several_processors = pytest.mark.skipif(
    PROCESSORS < 2, reason="a limit is only seen on two processors or more"
)


@pytest.fixture
def forced():
    """Every op uses all threads that are asked for, and waits for them."""
    _core.set_work_per_member(0.0)
    yield
    _core.set_work_per_member(-1.0)
    fastnn.set_num_threads(1024)


# Limits


@pytest.fixture
def openmp():
    """A runtime of OpenMP, whether fastnn was built to bring one or another library has loaded it."""
    try:
        runtime = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("no OpenMP is there")
    time.sleep(0.02)  # it is looked for every 10 ms
    fastnn.get_num_threads()
    return runtime


@linux
def test_runtimes_are_found_when_they_are_there(openmp):
    assert "libgomp.so.1" in ", ".join(fastnn.show_config()["openmp"])
    before = fastnn.get_num_threads()
    with threadpool_limits(1):
        assert fastnn.get_num_threads() == 1
    assert fastnn.get_num_threads() == before


@linux
@several_processors
def test_each_of_several_runtimes_is_obeyed(openmp, tmp_path):
    """As wheels bring them, each with a copy of its own under another name, before fastnn or after."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    path = next(line.split()[-1] for line in maps if "libgomp.so.1" in line)
    copies = [shutil.copy(path, tmp_path / f"libgomp-{i}.so.1.0.0") for i in range(2)]
    code = f"""
        import ctypes, time
        first = ctypes.CDLL({str(copies[0])!r})
        import fastnn
        all_of_them = fastnn.get_num_threads()
        second = ctypes.CDLL({str(copies[1])!r})
        time.sleep(0.02)
        for runtime in (first, second):
            runtime.omp_set_num_threads(1)
            assert fastnn.get_num_threads() == 1, runtime
            assert fastnn.show_config()["limits"][0] == "OpenMP 1"
            runtime.omp_set_num_threads(1000)
            assert fastnn.get_num_threads() == all_of_them
        names = fastnn.show_config()["openmp"]
        assert {{"libgomp-0.so.1.0.0", "libgomp-1.so.1.0.0"}} <= set(names), names
    """
    run_python(code, LD_PRELOAD="")


@linux
def test_a_list_and_nonsense_in_openmps_variable():
    assert run_python(SAY_LIMIT, OMP_NUM_THREADS="1,4").split()[0] == "1"
    most = run_python(SAY_LIMIT)
    assert run_python(SAY_LIMIT, OMP_NUM_THREADS="many") == most


@several_processors
def test_openmps_variable():
    assert run_python(SAY_LIMIT, OMP_NUM_THREADS="1").split(maxsplit=1)[0] == "1"
    assert (
        int(run_python(SAY_LIMIT, OMP_NUM_THREADS="1000").split(maxsplit=1)[0])
        == _core.thread_limits()["processors"]
    )
    assert run_python(SAY_LIMIT, OMP_THREAD_LIMIT="1").strip() == "1 OpenMP 1"


@linux
@several_processors
def test_affinity_as_it_is_at_the_moment():
    code = """
        import os, time, fastnn
        def limit_on(processors):
            os.sched_setaffinity(0, processors)
            time.sleep(0.02)
            return fastnn.get_num_threads()
        all_of_them = os.sched_getaffinity(0)
        print(limit_on({min(all_of_them)}), fastnn.show_config()["limits"][0], limit_on(all_of_them))
    """
    assert run_python(code).strip() == f"1 processors 1 {fastnn.get_num_threads()}"
    one = min(os.sched_getaffinity(0))
    assert run_python(f"import os\nos.sched_setaffinity(0, {{{one}}})\n{SAY_LIMIT}").startswith("1 ")


@linux
@several_processors
def test_threadpoolctl_at_any_moment_and_on_any_thread(openmp):
    before = fastnn.get_num_threads()
    seen = {}

    def elsewhere():
        seen["elsewhere"] = fastnn.get_num_threads()
        with threadpool_limits(1):
            seen["limited elsewhere"] = fastnn.get_num_threads()

    for _ in range(2):
        with threadpool_limits(1):
            assert fastnn.get_num_threads() == 1
            assert fastnn.show_config()["limits"][0] == "OpenMP 1"
        assert fastnn.get_num_threads() == before
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == {"elsewhere": before, "limited elsewhere": 1}
    assert fastnn.get_num_threads() == before


@linux
def test_threadpoolctl_around_the_first_use_does_not_last(openmp):
    code = """
        import ctypes
        ctypes.CDLL("libgomp.so.1")
        from threadpoolctl import threadpool_limits
        import fastnn, numpy as np
        with threadpool_limits(1):
            print(fastnn.get_num_threads())
            fastnn.matmul(np.ones((500, 500)), np.ones((500, 500)))
        print(fastnn.get_num_threads())
    """
    assert run_python(code).split() == ["1", str(fastnn.get_num_threads())]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(root, mounts, group, files):
    """Make a folder look like the root of a machine with control groups."""
    write(root / "proc/self/mountinfo", mounts)
    write(root / "proc/self/cgroup", group)
    for path, text in files.items():
        write(root / path, text)
    return _core.cgroup_quota(str(root))


SECOND = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
FIRST = "33 32 0:29 {group} /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("mounts", "group", "files", "expected"),
    [
        (SECOND, "0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 3),
        (
            SECOND,
            "0::/a/b\n",
            {"sys/fs/cgroup/a/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"},
            1,
        ),
        (SECOND, "0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (SECOND, "0::/a\n", {"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 1024),
        (SECOND, "0::/a\n", {}, 1024),
        (
            FIRST.format(group="/"),
            "4:memory:/x\n3:cpu,cpuacct:/a\n",
            {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (  # a container that sees its own group as the root
            FIRST.format(group="/docker/1"),
            "3:cpu,cpuacct:/docker/1\n",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            FIRST.format(group="/"),
            "3:cpu:/a\n",
            {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            1024,
        ),
        ("", "", {}, 1024),
        ("nonsense\n- - -\n" + SECOND, "0::/a\nnonsense\n", {"sys/fs/cgroup/a/cpu.max": "nonsense\n"}, 1024),
    ],
)
def test_quotas_of_control_groups(tmp_path, mounts, group, files, expected):
    assert machine(tmp_path, mounts, group, files) == expected


@several_processors
def test_a_real_quota():
    group = Path("/sys/fs/cgroup/cpu/fastnn-test")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made here: {error}")
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        code = f"open('{group}/cgroup.procs', 'w').write('0')\n{SAY_LIMIT}"
        assert run_python(code).strip() == "1 control group 1"
    finally:
        group.rmdir()


# Many callers


def trained(seed):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(64, 20)).astype(np.float32), rng.integers(0, 5, 64)
    trainer = fastnn.Trainer(
        fastnn.mlp([20, 64, 64, 5], seed=seed), fastnn.SoftmaxCrossEntropy(), fastnn.Adam()
    )
    loss = trainer.step(x, t)
    return trainer.net.state_dict() | {"loss": np.array(loss)}


def test_five_hundred_threads_that_step_at_once(forced):
    count = 500 // SMALLER
    fastnn.set_num_threads(2)
    expected = [trained(seed) for seed in range(5)]
    results, start = {}, threading.Barrier(count)

    def work(i):
        start.wait()
        results[i] = trained(i % 5)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert len(results) == count
    for i, result in results.items():
        assert_same_bits(result, expected[i % 5])


# Forks, threads that cannot be had, programs that end


OPENMP_WAS_USED = """
    import ctypes, os, sys, numpy as np, fastnn
    from fastnn import _core
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    ctypes.CDLL("libgomp.so.1").GOMP_parallel(region, None, 3, 0)  # as other libraries do
    _core.set_work_per_member(0.0)
    fastnn.set_num_threads(3)
    a = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    expected = fastnn.matmul(a, a)
    pid = os.fork()
    if pid == 0:
        right = (fastnn.matmul(a, a) == expected).all()
        os._exit(0 if right and len(os.listdir("/proc/self/task")) > 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (fastnn.matmul(a, a) == expected).all()
    print("right")
"""


def test_a_child_has_a_team_of_its_own_whoever_has_used_openmp_before():
    assert run_python(OPENMP_WAS_USED, timeout=60, PYTHONWARNINGS="ignore").strip() == "right"


def test_without_threads_to_be_had_a_call_goes_on_alone():
    code = """
        import resource, numpy as np, fastnn
        from fastnn import _core
        a = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
        out = np.empty_like(a)
        with fastnn.threads(1):
            expected = fastnn.matmul(a, a)
        _core.set_work_per_member(0.0)
        fastnn.set_num_threads(3)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 19), -1))
        fastnn.matmul(a, a, out)
        print(len(__import__("os").listdir("/proc/self/task")))
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        assert (out == expected).all()
    """
    assert run_python(code, OPENBLAS_NUM_THREADS="1").strip() == "1"


@pytest.mark.parametrize("work", ["fastnn.matmul(a, a)", "trainer.fit(a, t, epochs=1, batch_size=500)"])
def test_a_program_may_end_while_daemon_threads_compute(work):
    code = f"""
        import threading, time, numpy as np, fastnn
        a, t = np.ones((1000, 1000), np.float32), np.zeros(1000, int)
        def compute():
            net = fastnn.mlp([1000, 500, 3], seed=0)
            trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(1e-6))
            while True:
                {work}
        for _ in range(2):
            threading.Thread(target=compute, daemon=True).start()
        time.sleep(0.1)
    """
    for _ in range(4):
        run_python(code)


def test_signals_are_the_programs_own(forced):
    """Workers take none, so that Ctrl-C comes to the main thread."""
    fastnn.set_num_threads(3)
    a = np.ones((200, 200))
    fastnn.matmul(a, a)
    blocked = []
    for task in Path("/proc/self/task").iterdir():
        status = dict(
            line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line
        )
        blocked.append(bool(int(status["SigBlk"], 16) & 1 << (signal.SIGINT - 1)))
    assert sum(blocked) >= 2


# Placement


@linux
@several_processors
def test_members_do_not_share_a_processor(forced):
    """Made to begin on the caller's processor, workers take themselves off it."""
    code = """
        import os, threading, time, numpy as np, fastnn
        from fastnn import _core
        _core.set_work_per_member(0.0)
        fastnn.set_num_threads(2)
        a = np.ones((400, 400), np.float32)
        fastnn.matmul(a, a)
        (worker,) = {int(t) for t in os.listdir("/proc/self/task")} - {os.getpid()}
        all_of_them = os.sched_getaffinity(0)
        one = min(all_of_them)
        os.sched_setaffinity(0, {one})
        os.sched_setaffinity(worker, {one})
        os.sched_setaffinity(0, all_of_them)
        time.sleep(0.02)
        def processor(task):
            return int(open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()[36])
        together = 0
        for _ in range(200):
            fastnn.matmul(a, a)
            together += processor(worker) == processor(os.getpid())
        print(together)
    """
    assert int(run_python(code, OPENBLAS_NUM_THREADS="1")) < 100


# The team by itself


@pytest.fixture(scope="module", params=["linux", "portable"])
def system(request):
    """What the team asks of the system, as CMake chooses it: `portable` is all that is not Linux."""
    return f"core/system/{request.param}.cpp"


@pytest.fixture(scope="module", params=["", "-fsanitize=thread"], ids=["plain", "ThreadSanitizer"])
def stress(request, system, tmp_path_factory):
    """A program that opens teams from several threads at once and counts every piece."""
    if not shutil.which("c++"):
        pytest.skip("no compiler is there")
    here = Path(__file__).parent
    program = tmp_path_factory.mktemp("team") / "stress"
    cpp = here.parent / "src" / "cpp"
    sources = [here / "team_stress.cpp", *(cpp / "core").glob("*.cpp"), cpp / system]
    flags = ["-std=c++17", "-O1", "-g", "-pthread", f"-I{cpp}"]
    command = ["c++", *flags, *request.param.split(), *map(str, sources), "-ldl", "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and request.param and "tsan" in built.stderr:
        pytest.skip("the compiler has no ThreadSanitizer")
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize(
    ("work", "limit", "callers", "calls"), [(0, 4, 3, 150), (0, 7, 1, 200), (-1, 2, 2, 300), (0, 2, 70, 20)]
)
def test_every_piece_is_done_once(stress, work, limit, callers, calls):
    arguments = map(str, (work, limit, callers, calls))
    done = subprocess.run([str(stress), *arguments], capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this system does not run ThreadSanitizer")
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stderr
