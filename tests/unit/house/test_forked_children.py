"""What forked children of a test run inherit from it."""

from __future__ import annotations

import os
import signal


def test_a_forked_child_ends_at_once_when_it_is_told_to() -> None:
    """A handler that raises would leave a pool's worker waiting for a lock that it holds itself."""
    assert callable(signal.getsignal(signal.SIGTERM))  # the run itself cleans up first
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
