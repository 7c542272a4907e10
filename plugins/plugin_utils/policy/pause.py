# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Python's search for cycles of garbage, put off while long lists are made.

A list of a hundred thousand prefixes is as many tuples, none of which can be part of a cycle. The collector looks at
all of them again and again while they come into being: a fifth of the time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 50_000


@contextmanager
def no_collector() -> Iterator[None]:
    """Within this block, or the function that it decorates, only reference counts free memory."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
            # To those that live long, without a look at them: the next search among the young would look at all.
            gc.freeze()
            gc.unfreeze()
        gc.enable()
