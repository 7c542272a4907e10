"""Who may log in is checked to the letter before any device is asked: what stands in a line of sshd's cannot be quoted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import options
from ansible_collections.sallyport.iot.plugins.plugin_utils.access.options import OptionError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF me"
TOKEN = (
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJTxY7WWw3MsgWv+4L0jukRWO3TumLgCvMX4HmTPoyAF"
    "AAAABHNzaDo="
)


def test_a_whole_entry_is_read() -> None:
    (person,) = options.parse(
        {
            "users": [
                {
                    "name": "alice",
                    "keys": [KEY],
                    "from": ["mgmt", "10.0.0.0/8"],
                    "command": "uptime",
                    "forwarding": True,
                }
            ]
        }
    ).users
    assert person.name == "alice" and person.sources == ("mgmt", "10.0.0.0/8") and person.forwarding is True
    assert person.second_factor == "" and person.command == "uptime"


SECRET = "JBSW Y3DP EHPK 3PXP JBSW Y3DP EHPK 3PXP"


def test_a_secret_of_the_sites_own_is_read_as_apps_show_it_and_shown_nowhere() -> None:
    (person,) = options.parse(
        {"users": [{"name": "a", "totp_secret": f"{SECRET.lower()}=="}], "second_factor": "totp"}
    ).users
    assert person.totp_secret == SECRET.replace(" ", "") and "JBSW" not in repr(person)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"users": {"name": "a"}}, "ssh_users: expected a list, found dict"),
        ({"users": ["alice"]}, r"ssh_users\[0\]: expected a mapping with command, .*, found str"),
        ({"users": [{"name": "a"}, {"keys": []}]}, r"ssh_users\[1\].name: expected a name .*, found None"),
        ({"users": [{"name": "a"}, {"name": "a"}]}, r"ssh_users\[1\].name: expected each account once, found 'a'"),
        ({"users": [{"name": "*"}]}, r"ssh_users\[0\].name: expected a name .*, found '\*'"),
        ({"users": [{"name": "a b"}]}, r"ssh_users\[0\].name"),
        ({"users": [{"name": "a@10.0.0.1"}]}, r"ssh_users\[0\].name"),
        ({"users": [{"name": "../root"}]}, r"ssh_users\[0\].name"),
        ({"users": [{"name": "a\nMatch all"}]}, r"ssh_users\[0\].name"),
        ({"users": [{"name": "a", "key": KEY}]}, r"ssh_users\[0\].key: no such key; expected command"),
        ({"users": [{"name": "a", "keys": KEY}]}, r"ssh_users\[0\].keys: expected a list of text, found str"),
        ({"users": [{"name": "a", "keys": [f"{KEY}\n{KEY}"]}]}, r"ssh_users\[0\].keys\[0\]: expected one line"),
        ({"users": [{"name": "a", "keys": [f'command="x" {KEY}']}]}, r"ssh_users\[0\].keys\[0\]: .*without options"),
        ({"users": [{"name": "a", "keys": ["ssh-rsa " + KEY.split()[1]]}]}, r"ssh_users\[0\].keys\[0\]"),
        ({"users": [{"name": "a", "from": []}]}, r"ssh_users\[0\].from: expected zones .* found an empty list"),
        ({"users": [{"name": "a", "from": "mgmt"}]}, r"ssh_users\[0\].from: expected a list of text, found str"),
        ({"users": [{"name": "a", "from": [10]}]}, r"ssh_users\[0\].from\[0\]: expected text, found int"),
        ({"users": [{"name": "a", "forwarding": "yes"}]}, r"ssh_users\[0\].forwarding: expected true or false"),
        ({"users": [{"name": "a", "command": "x\nPermitRootLogin yes"}]}, r"ssh_users\[0\].command: expected one line"),
        ({"users": [{"name": "a", "command": "x # y"}]}, r"ssh_users\[0\].command: expected one line of text without #"),
        ({"users": [{"name": "a", "second_factor": "sms"}]}, r"ssh_users\[0\].second_factor: expected none, totp, fido2"),
        ({"users": [{"name": "a", "totp_secret": "short"}]}, r"totp_secret: expected 128 bits .*, found 5 characters"),
        ({"users": [{"name": "a", "totp_secret": 1}]}, r"totp_secret: expected 128 bits .*, found 0 characters \(int\)"),
        ({"users": [{"name": "a", "totp_secret": SECRET}]}, "expected second_factor: totp beside it, found none"),
        ({"users": [{"name": "a", "totp_secret": SECRET}, {"name": "b", "totp_secret": SECRET}], "second_factor": "totp"},
         r"ssh_users\[1\].totp_secret: expected one of its own"),
        ({"users": [{"name": "a", "principals": ["x y"]}]}, r"ssh_users\[0\].principals\[0\]: expected a name"),
        ({"users": [{"name": "a", "principals": ["x"]}]}, "certificates count only where ssh_trusted_user_ca"),
        ({"users": [{"name": "a", "second_factor": "fido2", "keys": [KEY]}]}, "expected a FIDO2 key .*, found ssh-ed25519"),
        ({"users": [{"name": "a", "second_factor": "fido2"}]}, "expected the FIDO2 keys of a, found none"),
        ({"groups": [{"name": "g", "keys": []}]}, r"ssh_groups\[0\].keys: no such key; expected from, name"),
        ({"groups": [{"name": "g"}, {"name": "g"}]}, r"ssh_groups\[1\].name: expected each group once"),
        ({"users": [{"name": "a"}], "allow_users": ["b"]}, "ssh_allow_users: ssh_users and ssh_groups say who"),
        ({"users": [{"name": "a"}], "options": {"AllowGroups": "x"}}, "ssh_options.allowgroups: ssh_users and"),
        ({"second_factor": "totp"}, "ssh_second_factor: totp is for the people of ssh_users, and there are none"),
        ({"second_factor": "totp", "groups": [{"name": "g"}], "users": [{"name": "a"}]}, "ssh_groups: expected none"),
        ({"trusted_user_ca": ["nonsense"]}, r"ssh_trusted_user_ca\[0\]: expected one line of a CA's public key"),
        ({"revoked_keys": [{"serial": 0}]}, r"ssh_revoked_keys\[0\].serial: expected numbers from 1"),
        ({"revoked_keys": [{"serial": "9-1"}]}, r"ssh_revoked_keys\[0\].serial: expected numbers"),
        ({"revoked_keys": [{"serial": 5}]}, "ssh_trusted_user_ca names no CA that signs any"),
        ({"revoked_keys": [{"who": "x"}]}, r"ssh_revoked_keys\[0\].who: expected serial"),
        ({"revoked_keys": ["alice"]}, r"ssh_revoked_keys\[0\]: expected a public key, or a mapping"),
        ({"revoked_keys": [KEY], "authorized_keys": [KEY]}, r"ssh_authorized_keys\[0\]: this key stands in ssh_revoked_keys"),
        ({"revoked_keys": [KEY], "users": [{"name": "a", "keys": [KEY]}]}, r"ssh_users\[0\].keys\[0\]: this key stands"),
        ({"host_certificates": [KEY]}, "expected one line of an OpenSSH certificate"),
        ({"idle_timeout": 5}, r"ssh_idle_timeout: expected 0 \(never\) or seconds from 10, found 5"),
        ({"max_startups_per_source": 1}, "ssh_max_startups_per_source: expected a whole number from 3"),
        ({"options": {"AuthenticationMethods": "publickey, keyboard-interactive"}}, "with a space between them are alternatives"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_what_was_expected_and_found(values: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        options.parse(values)


def test_a_token_is_told_from_a_key_and_its_line_asks_for_verification() -> None:
    (person,) = options.parse({"users": [{"name": "a", "second_factor": "fido2", "keys": [TOKEN]}]}).users
    from ansible_collections.sallyport.iot.plugins.plugin_utils.access import people

    assert people.key_line(person, TOKEN) == f"verify-required {TOKEN}"
