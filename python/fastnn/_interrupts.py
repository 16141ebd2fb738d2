"""Ctrl-C while a training runs: noted, and looked at where nothing is half done."""

from __future__ import annotations

import math
import os
import signal
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

try:  # the functions without the enumerations that `signal` puts around them: 1 us for 20
    import _signal as handlers  # type: ignore[import-not-found]
except ImportError:
    import signal as handlers

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

__all__ = ["Interrupts", "look"]

AT_ONCE = 1.0  # seconds: a Ctrl-C that follows another within them raises

_innermost: Interrupts | None = None  # of those that have the signal
_last = -math.inf  # when it came


class Interrupts:
    """What a training does with Ctrl-C while it is entered.

    In the main thread, unless there is a handler of someone's own, Ctrl-C is noted. It raises
    KeyboardInterrupt at once where it follows another within a second, or one that nobody has looked at yet,
    and in callbacks; and at the end, from the error, where one leaves the training before it is looked at. In
    other threads, and with such a handler, nothing changes.

    Attributes
    ----------
    noted : bool
    leaves : bool
        Whether KeyboardInterrupt, if it comes now, is to leave the training rather than to end it.
    """

    def __init__(self) -> None:
        self.noted = self.leaves = False
        self._process = os.getpid()
        self._before: Any = None
        self._outer: Interrupts | None = None

    def __enter__(self) -> Self:
        global _innermost
        before = handlers.getsignal(signal.SIGINT)
        ours = isinstance(getattr(before, "__self__", None), Interrupts)
        if ours or before is signal.default_int_handler:
            self._before, self._outer = before, _innermost
            with suppress(ValueError):  # raised in other threads
                handlers.signal(signal.SIGINT, self._handle)
                _innermost = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        self._give_back()
        if self.noted and isinstance(error, Exception):  # and with it goes the history that would tell
            if self._outer is None:
                raise KeyboardInterrupt from error
            self._outer.noted = True

    def _give_back(self) -> None:
        """Put the handler before back, unless another has taken the place of this one."""
        global _innermost
        if handlers.getsignal(signal.SIGINT) == self._handle:
            handlers.signal(signal.SIGINT, self._before)
        if _innermost is self:
            _innermost = self._outer

    def _handle(self, *_: object) -> None:
        global _last
        if os.getpid() != self._process:  # forked meanwhile: to do something else
            handlers.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        again = self.noted or monotonic() - _last < AT_ONCE
        _last = monotonic()
        if again:
            self.leaves = True
            self._give_back()
        if self.leaves:
            raise KeyboardInterrupt
        self.noted = True

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what others have written: KeyboardInterrupt that comes from there leaves the training."""
        self.leaves = True
        result = function(*arguments)
        self.leaves = False
        return result


def look() -> None:
    """Raise KeyboardInterrupt if the training that this is a part of has noted Ctrl-C."""
    inner = _innermost
    here = threading.current_thread() is threading.main_thread()
    if here and inner is not None and inner.noted and not inner.leaves:
        raise KeyboardInterrupt
