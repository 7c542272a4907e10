"""A connection that knows that it cannot carry standard input, as Ansible's older ones do."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.connection.local import DOCUMENTATION as _LOCAL
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = _LOCAL.replace("name: local", "name: trial_refuses")


class Connection(Local):
    transport = "trial_refuses"

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, Any, Any]:
        del cmd, sudoable
        if in_data:
            raise AnsibleError("Internal Error: this module does not support optimized module pipelining")
        return 0, b"", b""
