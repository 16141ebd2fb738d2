"""The page for readers of the from-scratch course, and the protocol of a layer that it tells."""

import re
from pathlib import Path

import pytest

import fastnn
from fastnn import reference as ref

PAGE = Path(__file__).parents[1] / "docs" / "from-scratch.md"


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    out = capsys.readouterr().out
    assert out.count("True") == 2
    assert "[1 3 7] [1. 2. 1.]" in out


@pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
def test_a_forward_without_train_is_refused(module):
    class Text:
        def forward(self, x):
            return x

        def backward(self, dout):
            return dout

    with pytest.raises(TypeError, match=r"layers\[0\].forward must take \(x, train\), .* takes \(x\)"):
        module.Sequential([Text(), module.Affine.create(6, 3)])
