# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the ssh role does to one device: from the device and the operator's options to files and commands.

Pure: nothing here asks a device or reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sallyport.iot.plugins.plugin_utils.access.host_keys import Renewal
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import SshOptions


class Refused(ValueError):
    """This change must not be tried on this device. The message says why, and what to do."""


@dataclass
class Plan:
    """For ``commit``, and for the report.

    Attributes:
        files: entries of ``commit``'s ``files``.
        renewals: host keys to be made on the device within the change.
        gone: public host keys (blobs) that the device no longer has afterwards.
        stays: public host keys that it keeps showing.
        notes: what an operator should know, in words.
        forgets: files of which no generation may keep what stands in them now.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    activate: list[str] = field(default_factory=list)
    verify: list[str] = field(default_factory=list)
    revert: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    renewals: list[Renewal] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    forgets: list[str] = field(default_factory=list)
    new_daemon: bool = True


def login_account(device: Mapping[str, Any]) -> Mapping[str, Any]:
    """The account that Ansible logs in with.

    Raises:
        Refused: the device does not list it.
    """
    name = device.get("login_user")
    for account in device.get("accounts") or []:
        if account["name"] == name:
            return dict(account)
    raise Refused(
        f"the login user {name!r} is not among the accounts of /etc/passwd (a directory service?); "
        f"log in with a local account, so that its way in can be proved"
    )


def check_way_in(device: Mapping[str, Any], options: SshOptions) -> None:
    """Refuse what would leave the operator without a way in, as far as can be seen before.

    Raises:
        Refused: with the variable to set.
    """
    account = login_account(device)
    name = str(account["name"])
    if options.allow_users and name not in options.allow_users:
        raise Refused(f"ssh_allow_users leaves out {name}, with whom Ansible logs in: add it")
    if name == "root" and options.permit_root_login == "no":
        raise Refused(
            "ssh_permit_root_login is no, and root is the login of this inventory. "
            "Make another account with sudo and set ansible_user, or leave it at auto"
        )
    own = next((person for person in options.users if person.name == name), None)
    certificates = bool(own and own.principals and options.trusted_user_ca)
    keys = len(options.authorized_keys) or (
        0 if options.authorized_keys_exclusive else int(account.get("authorized_keys") or 0)
    )
    if not options.password_authentication and not keys and not certificates:
        raise Refused(
            f"{name} has no key on this device, so turning passwords off would lock everybody out. "
            f"Set ssh_authorized_keys to your public keys, and ansible_ssh_private_key_file to the private "
            "one"
        )


def drop_weak(keys: Sequence[Mapping[str, Any]], plan: Plan) -> None:
    """Take weak host keys away; both halves."""
    for key in keys:
        path = str(key["path"])
        plan.files.append({"dest": path, "state": "absent"})
        plan.files.append({"dest": f"{path}.pub", "state": "absent"})
        plan.notes.append(f"host key {path} ({key.get('type')}, {key.get('bits')} bits) is weak and goes")
        plan.gone.append(str(key.get("public", "")))
