"""Optuna's own tests of samplers, those that the installed version brings, run on `NarrowingSampler`.

Those of relative samplers and of several objectives are not for it: it draws each parameter by itself.
"""

import pytest

import fastnn.search

SUITE = pytest.importorskip(
    "optuna.testing.pytest_samplers", reason="this Optuna does not bring its tests of samplers"
)

pytestmark = pytest.mark.filterwarnings("ignore")


class TestNarrowingSampler(SUITE.BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return fastnn.search.NarrowingSampler
