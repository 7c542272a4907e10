"""What an exchange makes of its connection: which ssh arguments of a site cannot carry a program is seen before anything is
sent, on every ansible-core; and what is tried again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Exchange, ExchangeError


def _action(**options: str) -> Any:
    connection = SimpleNamespace(transport="ssh", get_option=options.get)
    return SimpleNamespace(_connection=connection, _task=SimpleNamespace(delegate_to=None))


@pytest.mark.parametrize("name", ["ssh_args", "ssh_common_args", "ssh_extra_args"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", ""),
        ("-C -o ControlMaster=auto -o ControlPersist=60s", ""),
        ("-T -o RequestTTY=no", ""),
        ("-o ProxyCommand='ssh -W %h:%p -t gate'", ""),
        ("-tt", "asks for a terminal"),
        ("-C -vt", "asks for a terminal"),
        ("-o RequestTTY=force", "asks for a terminal"),
        ("-orequesttty=yes", "asks for a terminal"),
        ("-o 'RequestTTY auto'", "asks for a terminal"),
        ("-C -o", "end in an option without its value"),
        ("-vi", "end in an option without its value"),
        ("-o 'User=x", "cannot be read"),
    ],
)
def test_arguments_that_carry_no_program_are_refused_by_name(name: str, arguments: str, said: str) -> None:
    if not said:
        Exchange(_action(**{name: arguments}))
        return
    with pytest.raises(ExchangeError, match=said) as caught:
        Exchange(_action(**{name: arguments}))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("said", "asked", "ran"),
    [
        ('Data could not be sent to remote host "gw". Make sure this host can be reached over ssh: ', 2, 1),
        ("Failed to connect to the host via ssh: ", 2, 1),
        ("Failed to connect to the host via ssh: ssh: connect to host gw port 22: Connection refused", 1, 1),
        ("Failed to connect to the host via ssh: root@gw: Permission denied (publickey).", 1, 1),
    ],
)
def test_a_question_is_asked_once_more_where_ssh_ended_without_a_word_and_a_change_is_not(
    said: str, asked: int, ran: int
) -> None:
    sent: list[str] = []

    def fails(command: str, **_more: Any) -> Any:
        sent.append(command)
        raise AnsibleConnectionFailure(said)

    action = _action()
    action._low_level_execute_command = fails
    action._connection.set_option = lambda _name, _value: None
    exchange = Exchange(action)
    for attempt, times in ((exchange.ask, asked), (exchange.run, ran)):
        sent.clear()
        with pytest.raises(AnsibleConnectionFailure):
            attempt("say hello")
        assert len(sent) == times
