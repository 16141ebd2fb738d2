"""What Cython imports: the functions of `api.pxd`, each in a capsule that is named after its signature."""

from .. import _core

__pyx_capi__ = _core.C_FUNCTIONS
