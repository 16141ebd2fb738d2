"""How OpenMP is loaded: with a short spin, unless the user has chosen."""

import os
import re
import subprocess
import textwrap

import pytest

from native import PYTHON

LOAD = """
    import os
    before = dict(os.environ)
    import fastnn
    assert dict(os.environ) == before
"""


def spin_count(**environment):
    """Return what libgomp says of itself when it is loaded."""
    chosen = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [*PYTHON, "-c", textwrap.dedent(LOAD)],
        env={**chosen, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    told = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not told:
        pytest.skip("this OpenMP does not tell its spin count")
    return int(told.group(1))


def test_waiting_threads_spin_briefly():
    assert spin_count() == 1000


def test_a_choice_of_the_user_stays():
    assert spin_count(GOMP_SPINCOUNT="77") == 77
    assert spin_count(OMP_WAIT_POLICY="passive") == 0
