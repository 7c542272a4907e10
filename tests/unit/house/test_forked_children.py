"""What forked children of a test run inherit from it."""

from __future__ import annotations

import os
import signal
import time


def test_a_forked_child_ends_at_once_when_it_is_told_to() -> None:
    """A handler that raises would leave a pool's worker waiting for a lock that it holds itself."""
    assert callable(signal.getsignal(signal.SIGTERM))  # the run itself cleans up first
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_a_forked_child_that_is_told_to_end_before_it_has_begun_ends_too() -> None:
    """What comes while it still has its parent's handler would be forgotten, and a pool waits for such a worker for ever."""
    for _ in range(50):
        child = os.fork()
        if not child:
            # No condition to wait for: it is killed. Where that was forgotten, the test ends all the same, and fails.
            time.sleep(20)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
