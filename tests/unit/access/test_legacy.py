"""A service is what listens and what would start, not what its package is called."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import boot_files, legacy, owners, shell
from ansible_collections.sallyport.iot.plugins.plugin_utils.device.exchange import Reply

INETD = """\
# comment
telnet	stream	tcp	nowait	root	/usr/sbin/tcpd	/usr/sbin/in.telnetd
git	stream	tcp	nowait	nobody	/usr/bin/git	git daemon --inetd
"""
XINETD = "service telnet\n{\n\tport = 2323\n\tserver = /usr/sbin/telnetd\n\tdisable = no\n}\n"


def device(**parts: Any) -> dict[str, Any]:
    return {"files": {}, "units": {}, "listening": [], "processes": [], **parts}


def socket(
    protocol: str, port: int, process: str, unit: str = "", address: str = "0.0.0.0", pid: int = 9
) -> dict[str, Any]:
    return {"protocol": protocol, "family": "ipv4", "address": address, "port": port, "pid": pid,
            "process": process, "unit": unit}  # fmt: skip


def kinds(found: list[legacy.Finding]) -> list[str]:
    return [finding.kind for finding in found]


def test_a_unit_that_listens_on_any_port_is_found_by_its_program_and_masked() -> None:
    one = device(
        listening=[socket("tcp", 8023, "in.telnetd", "remote-help.service")],
        units={"remote-help.service": {"active": "active", "enabled": "enabled", "path": ""}},
    )
    found = legacy.find(one, {})
    assert kinds(found) == ["telnet"] and found[0].unhandled == []
    plan = legacy.plan(one, found)
    assert plan.files == [{"dest": "/etc/systemd/system/remote-help.service", "link": "/dev/null"}]
    assert "systemctl stop remote-help.service" in plan.activate[0]
    assert any("tcp:1F57" in command for command in plan.verify)


def test_an_interpreter_is_found_by_its_command_line() -> None:
    one = device(
        listening=[socket("tcp", 5000, "python3", "gateway.service")],
        processes=[
            {
                "pid": 9,
                "ppid": 1,
                "name": "python3",
                "command": "python3 -m http.server --directory /srv/upnp",
            }
        ],
    )
    assert kinds(legacy.find(one, {})) == ["upnp"]


def test_a_web_server_and_what_listens_on_loopback_only_are_left_alone() -> None:
    one = device(
        listening=[
            socket("tcp", 80, "nginx", "nginx.service"),
            socket("tcp", 23, "telnetd", "", "127.0.0.1"),
        ],
        units={"nginx.service": {"active": "active", "enabled": "enabled", "path": ""}},
    )
    assert legacy.find(one, {}) == []
    assert not legacy.plan(one, [])


def test_one_line_of_inetd_goes_and_the_other_goes_on_being_served() -> None:
    one = device(files={"/etc/inetd.conf": INETD}, listening=[socket("tcp", 23, "inetd", "inetd.service")])
    plan = legacy.plan(one, legacy.find(one, {}))
    text = plan.files[0]["content"]
    assert [entry.name for entry in boot_files.entries("/etc/inetd.conf", text)] == ["git"]
    assert text.splitlines()[0::2] == INETD.splitlines()[0::2]
    assert len(plan.files) == 1 and any("reload_named inetd" in command for command in plan.activate)


def test_an_inetd_with_nothing_left_to_serve_is_masked_too() -> None:
    text = "\n".join(INETD.splitlines()[:2]) + "\n"
    one = device(files={"/etc/inetd.conf": text}, listening=[socket("tcp", 23, "inetd", "inetd.service")])
    plan = legacy.plan(one, legacy.find(one, {}))
    assert {"dest": "/etc/systemd/system/inetd.service", "link": "/dev/null"} in plan.files


def test_an_xinetd_service_on_its_own_port_is_disabled_for_good() -> None:
    one = device(
        files={"/etc/xinetd.d/telnet": XINETD}, listening=[socket("tcp", 2323, "xinetd", "xinetd.service")]
    )
    found = legacy.find(one, {})
    assert kinds(found) == ["telnet"] and found[0].sockets == {("tcp", 2323)}
    text = legacy.plan(one, found).files[0]["content"]
    assert list(boot_files.entries("/etc/xinetd.d/telnet", text)) == []
    assert text.count("disable") == 1 and "\tdisable = yes\n" in text


def test_lines_of_inittab_are_marked_and_a_second_look_finds_nothing() -> None:
    inittab = (
        "::respawn:/usr/sbin/telnetd -F -l /bin/login\n::respawn:/usr/sbin/httpd -f\n::askfirst:/bin/login\n"
    )
    one = device(files={"/etc/inittab": inittab}, listening=[socket("tcp", 23, "telnetd")])
    plan = legacy.plan(one, legacy.find(one, {}))
    text = plan.files[0]["content"]
    assert text.splitlines()[0] == f"{boot_files.MARK}{inittab.splitlines()[0]}"
    assert text.splitlines()[1:] == inittab.splitlines()[1:]
    assert "kill -HUP 1" in plan.activate and "kill -HUP 1" in plan.revert
    assert legacy.find(device(files={"/etc/inittab": text}), {}) == []


def test_a_line_of_a_boot_script_leaves_a_command_behind_so_that_its_block_stays_valid() -> None:
    script = "#!/bin/sh\nif true; then\n  telnetd -l /bin/sh &\nfi\n"
    one = device(files={"/etc/init.d/rcS": script}, listening=[socket("tcp", 23, "telnetd")])
    plan = legacy.plan(one, legacy.find(one, {}))
    assert plan.files[0]["content"].splitlines()[2] == f"  : {boot_files.MARK}telnetd -l /bin/sh &"
    assert plan.check and "( telnetd -l /bin/sh & ) </dev/null >/dev/null 2>&1 &" in plan.revert


@pytest.mark.parametrize(
    "line", ["telnetd \\", "if telnetd; then", "start() { telnetd", "[ -x /sbin/telnetd ] &&"]
)
def test_a_line_that_cannot_go_alone_is_reported_and_left(line: str) -> None:
    one = device(files={"/etc/init.d/rcS": f"#!/bin/sh\n{line}\n"}, listening=[socket("tcp", 23, "telnetd")])
    found = legacy.find(one, {})
    assert found[0].unhandled and "/etc/init.d/rcS line 2" in found[0].unhandled[0]
    assert not legacy.plan(one, found).files


def test_everyday_words_in_scripts_are_no_network_services() -> None:
    script = "#!/bin/sh\necho starting\ntime sync\nexec /bin/login\nshell=/bin/sh\nnetstat -an\n"
    assert legacy.find(device(files={"/etc/init.d/rcS": script}), {}) == []


def test_what_listens_without_a_start_that_can_be_found_is_said_and_not_dropped() -> None:
    found = legacy.find(device(listening=[socket("tcp", 23, "telnetd")]), {})
    assert found[0].unhandled == ["telnetd listens on 23/tcp, and nothing that starts it was found"]


def test_a_masked_unit_is_gone_and_a_disabled_one_does_not_count() -> None:
    units = {
        "telnet.socket": {"active": "inactive", "enabled": "masked", "path": "/dev/null"},
        "snmpd.service": {"active": "inactive", "enabled": "disabled", "path": ""},
    }
    assert legacy.find(device(units=units), {}) == []


def test_an_allowed_service_stays_with_its_reason() -> None:
    one = device(listening=[socket("udp", 161, "snmpd", "snmpd.service")])
    allow = legacy.allow_list([{"name": "snmp", "reason": "version 3 only, OPS-9"}])
    found = legacy.find(one, allow)
    assert found[0].report()["kept_because"] == "version 3 only, OPS-9"
    assert not legacy.plan(one, found)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["telnet"], r"legacy_services_allow\[0\]: expected a mapping with exactly name and reason, found 'telnet'"),
        ([{"name": "telnet", "reason": " "}], r"legacy_services_allow\[0\].reason: say in a few words why telnet stays"),
        ([{"name": "telnetd", "reason": "x"}], r"legacy_services_allow\[0\].name: expected one of adb, .*found 'telnetd'"),
    ],
)  # fmt: skip
def test_a_wrong_allow_list_is_refused_with_its_place(value: Any, text: str) -> None:
    with pytest.raises(legacy.AllowListError, match=text):
        legacy.allow_list(value)


def test_a_socket_activated_service_takes_its_sessions_with_it_and_comes_back_on_the_way_back() -> None:
    one = device(
        listening=[socket("tcp", 23, "systemd", "telnet.socket", pid=1)],
        units={"telnet.socket": {"active": "active", "enabled": "enabled", "path": ""}},
    )
    plan = legacy.plan(one, legacy.find(one, {}))
    assert "telnet@*.service" in plan.activate[0]
    assert plan.revert[0] == "systemctl daemon-reload"
    assert "until systemctl start telnet.socket; do" in plan.revert[1]
    assert "holders tcp:0017" in plan.revert[-1], "back is only who answers again"


@pytest.mark.parametrize("also", [False, True], ids=["its only service", "one service of two"])
def test_a_super_server_that_is_started_again_is_not_told_to_reload_meanwhile(also: bool) -> None:
    files = {"/etc/xinetd.d/telnet": "service telnet\n{\n\tport = 2323\n\tserver = /usr/sbin/telnetd\n}\n"}
    if also:
        files["/etc/xinetd.d/own"] = "service own\n{\n\tport = 7000\n\tserver = /usr/bin/own\n}\n"
    one = device(
        files=files,
        listening=[socket("tcp", 2323, "xinetd", "xinetd.service")],
        units={"xinetd.service": {"active": "active", "enabled": "enabled", "path": ""}},
    )
    plan = legacy.plan(one, legacy.find(one, {}))
    assert any("systemctl start xinetd.service" in step for step in plan.revert) != also
    # A HUP before xinetd has its handlers ends it (seen); one that goes on running needs it.
    assert any(step.endswith("reload_named xinetd") for step in plan.revert) == also


@pytest.mark.parametrize(
    ("process", "port"),
    [("rsyslogd", 514), ("sshd", 23), ("dropbear", 2323), ("nginx", 21), ("python3", 5555)],
)
def test_a_known_daemon_of_another_kind_on_an_odd_port_is_left_alone(process: str, port: int) -> None:
    one = device(listening=[socket("tcp", port, process, f"{process}.service")])
    assert legacy.find(one, {}) == []


@pytest.mark.parametrize(
    "unit", ["login.service", "time-sync.service", "shell.service", "systemd-logind.service", "echo.service"]
)
def test_units_with_everyday_names_are_no_legacy_services(unit: str) -> None:
    assert legacy.find(device(units={unit: {"active": "active", "enabled": "enabled", "path": ""}}), {}) == []


@pytest.mark.parametrize(
    ("unit", "kind"),
    [("telnet.socket", "telnet"), ("tftp.service", "tftp"), ("rlogin.socket", "rsh"), ("vsftpd.service", "ftp"),
     ("inetutils-telnetd.service", "telnet"), ("minidlna.service", "upnp"), ("snmpd.service", "snmp")],
)  # fmt: skip
def test_units_are_known_by_name_even_before_they_run(unit: str, kind: str) -> None:
    found = legacy.find(device(units={unit: {"active": "inactive", "enabled": "enabled", "path": ""}}), {})
    assert kinds(found) == [kind] and found[0].units == {unit}


@pytest.mark.parametrize("name", ["shell", "login", "exec", "time", "echo", "finger", "tftp"])
def test_everyday_words_are_services_where_inetd_serves_them(name: str) -> None:
    text = f"{name} stream tcp nowait root internal internal\n"
    assert len(legacy.find(device(files={"/etc/inetd.conf": text}), {})) == 1


def test_a_client_in_a_crontab_is_no_server() -> None:
    text = "@reboot tftp -g -r config 10.0.0.1\n@reboot telnetd -p 24\n"
    found = legacy.find(device(files={"/var/spool/cron/crontabs/root": text}), {})
    assert kinds(found) == ["telnet"] and [entry.line for entry in found[0].entries] == [2]


@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("ttyS0::respawn:/bin/sh", True),
        ("ttyS0::respawn:-/bin/ash --login", True),
        ("::askfirst:-/bin/sh", True),
        ("ttyS0::respawn:/bin/busybox sh -l", True),
        ("ttyS0::respawn:/sbin/getty -n -l /bin/sh 115200 ttyS0", True),
        ("ttyS0::respawn:/sbin/agetty --autologin root 115200 ttyS0", True),
        ("ttyS0::respawn:/bin/login -f root", True),
        ("::askfirst:/bin/login", False),
        ("ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100", False),
        ("ttyS0::respawn:/sbin/agetty -f /etc/issue.gw 115200 ttyS0", False),
        ("::sysinit:/bin/sh /etc/init.d/start", False),
        ("::respawn:/bin/sh -c 'while sleep 9; do ping -c1 gw; done'", False),
    ],
)
def test_a_console_that_asks_for_no_password_is_switched_off_and_one_that_does_stays(
    line: str, free: bool
) -> None:
    one = device(files={"/etc/inittab": f"{line}\n"})
    found = legacy.find(one, {})
    assert kinds(found) == (["console"] if free else [])
    if free:
        plan = legacy.plan(one, found)
        assert plan.files[0]["content"] == f"{boot_files.MARK}{line}\n"
        assert "kill -HUP 1" in plan.activate and shell.END_CONSOLES in plan.activate


AUTOLOGIN = "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root %I 115200\n"


def test_a_drop_in_that_logs_in_by_itself_goes_and_the_console_asks_again() -> None:
    path = "/etc/systemd/system/serial-getty@.service.d/autologin.conf"
    one = device(files={path: AUTOLOGIN})
    plan = legacy.plan(one, legacy.find(one, {}))
    assert [line for line in plan.files[0]["content"].splitlines() if not line.startswith("#")] == [
        "[Service]"
    ]
    assert plan.files[0]["dest"] == path and len(plan.files) == 1
    assert "try-restart 'serial-getty@*.service'" in plan.activate[0]
    assert legacy.find(device(files={path: plan.files[0]["content"]}), {}) == []


def test_a_whole_unit_that_logs_in_by_itself_is_masked_and_so_is_the_debug_shell() -> None:
    path = "/etc/systemd/system/serial-getty@ttyS0.service"
    units = {"debug-shell.service": {"active": "active", "enabled": "enabled", "path": ""}}
    one = device(files={path: AUTOLOGIN}, units=units)
    plan = legacy.plan(one, legacy.find(one, {}))
    assert plan.files == [
        {"dest": f"/etc/systemd/system/{name}.service", "link": "/dev/null"}
        for name in ("debug-shell", "serial-getty@ttyS0")
    ]
    getty = {"/etc/systemd/system/getty@tty1.service.d/noclear.conf": "[Service]\nTTYVTDisallocate=no\n"}
    assert legacy.find(device(files=getty), {}) == []


def test_who_packaged_a_listener_is_asked_of_the_devices_own_tool() -> None:
    listener = {"listens": "9100/tcp", "process": "node_exporter", "unit": "node.service"}
    one = device(
        listening=[socket("tcp", 9100, "node_exporter", "node.service")],
        processes=[
            {"pid": 9, "ppid": 1, "name": "node_exporter", "command": "", "exe": "/usr/bin/node_exporter"}
        ],
        packages="apt",
    )
    assert 'say owner "$(owner /usr/bin/node_exporter)" /usr/bin/node_exporter' in owners.asking(
        one, [listener]
    )
    assert owners.asking({**one, "packages": "none"}, [listener]) == owners.asking(one, []) == ""
    owners.fill(one, [listener], Reply((("owner", "exporter /usr/bin/node_exporter"),), 0))
    assert listener["package"] == "exporter"
