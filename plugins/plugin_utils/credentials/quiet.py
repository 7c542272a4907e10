# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Exchanges whose replies are secrets: nothing of them may reach the screen or Ansible's log.

``no_log`` on the task would hide the result too, and with it every reason for a failure. So it is set for the
connection only, while the exchange runs; and what ``-vvv`` and ``ANSIBLE_DEBUG`` print of every reply is held
back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ansible.utils.display import Display


@contextlib.contextmanager
def quiet(action: Any) -> Iterator[None]:
    """Within this block nothing that the device says is shown, at any verbosity."""
    contexts = [action._play_context]
    own = getattr(action._connection, "_play_context", None)
    if own is not None and own is not action._play_context:
        contexts.append(own)
    saved = [context.no_log for context in contexts]
    display = Display()
    held_back = display.__dict__.get("debug")
    try:
        for context in contexts:
            context.no_log = True
        # The instance's attribute stands before the class's method, and goes again with the block.
        display.__dict__["debug"] = lambda *words, **named: None
        yield
    finally:
        if held_back is None:
            display.__dict__.pop("debug", None)
        else:
            display.__dict__["debug"] = held_back
        for context, value in zip(contexts, saved, strict=True):
            context.no_log = value
