"""A process that only compresses: what it need not import, and how its memory is handed back.

Measured with torch 2.13 and transformers 5.23 on Linux: torch alone is 218 MB of resident memory, the modelling file of
a Llama 162 MB more, of which scipy (object detection losses) and accelerate are 47 MB and most of a second.
"""

from __future__ import annotations

import sys

# transformers imports these wherever they are installed; no forward pass uses them.
_UNUSED = ("scipy", "sklearn", "accelerate")

# For the environment of such a process, read by glibc when it starts (mallopt(3), "GNU C Library manual", tunables).
# torch frees and asks again for aligned pieces of the same few sizes; small chunks that glibc keeps in caches of its
# own split the holes that they leave, and large pieces that the heap keeps are lost to everyone else.
VARIABLES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
}


def import_little() -> None:
    """Say that those libraries are not there, before transformers looks for them. Only for a process of one's own.

    A None in ``sys.modules`` makes ``import`` and ``find_spec`` answer so (The Python Language Reference, 5.3.1).
    """
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
