"""Several native networks and arrays under one optimizer."""

from __future__ import annotations

from .layers import documented
from .network import Sequential
from .reference import joint as reference

__all__ = ["Joint"]


@documented
class Joint(reference.Joint):
    network_class = Sequential
