"""doas by the command that community.general's plugin builds, for machines without that collection."""

from __future__ import annotations

from typing import Any

from ansible.plugins.become import BecomeBase

DOCUMENTATION = r"""
name: trial_doas
short_description: doas
description: For tests.
author: The Sallyport authors (@sallyport)
version_added: 0.1.0
options:
  become_user:
    description: Who to become.
    type: str
    default: root
    vars: [{name: ansible_become_user}]
  become_exe:
    description: The program.
    type: str
    default: doas
    vars: [{name: ansible_become_exe}]
  become_flags:
    description: Its options.
    type: str
    default: ''
    vars: [{name: ansible_become_flags}]
  become_pass:
    description: The password.
    type: str
    vars: [{name: ansible_become_password}, {name: ansible_become_pass}]
"""


class BecomeModule(BecomeBase):
    name = "trial_doas"
    fail = ("Permission denied",)
    missing = ("Authorization required",)
    pipelining = False

    def check_password_prompt(self, b_output: bytes) -> bool:
        return b_output.startswith((b"doas (", b"Password:"))

    def build_become_command(self, cmd: str, shell: Any) -> str:
        super().build_become_command(cmd, shell)
        if not cmd:
            return cmd
        self.prompt = True
        flags = self.get_option("become_flags") + ("" if self.get_option("become_pass") else " -n")
        inner = self._build_success_command(cmd, shell, noexe=True)
        return f"{self.get_option('become_exe')} {flags} -u {self.get_option('become_user')} {shell.executable} -c {inner}"
