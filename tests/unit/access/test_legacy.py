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
    "line", ["telnetd \\", "if telnetd; then", "start() { telnetd", "[ -x /sbin/telnetd ] && telnetd ||"]
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
        ("tty1::respawn:/sbin/mingetty --autologin root tty1", True),
        ("tty1::respawn:/sbin/mingetty tty1", False),
        ("ttyS0::respawn:/sbin/getty -nl /bin/sh 115200 ttyS0", True),
        ("ttyS0::respawn:/sbin/getty -n -l/bin/sh 115200 ttyS0", True),
        ("ttyS0::respawn:/sbin/agetty --login-program=/bin/sh 115200 ttyS0", True),
        ("ttyS0::respawn:/bin/cttyhack /bin/sh", True),
        ("ttyS0::respawn:setsid cttyhack sh", True),
        ("ttyS0::respawn:setsid -c /bin/sh", True),
        ("ttyS0::respawn:/bin/login -froot", True),
        ("ttyS0::respawn:/sbin/agetty -aroot 115200 ttyS0", True),
        ("ttyS0::respawn:/sbin/agetty --skip-login -o '-f root' 115200 ttyS0", True),
        ("ttyS0::respawn:/sbin/agetty --skip-login --login-options '-p -f root' ttyS0", True),
        ("ttyS0::respawn:/bin/sh -c 'exec sh -l'", True),
        ("ttyS0::respawn:/usr/bin/env sh", True),
        ("ttyS0::respawn:su -", True),
        ("::respawn:/bin/sh </dev/ttyS0 >/dev/ttyS0 2>&1", True),
        ("::respawn:/bin/sh /opt/meter </dev/ttyS0 2>&1", False),
        ("ttyS0::respawn:setsid sh -c 'exec sh </dev/ttyAMA0 >/dev/ttyAMA0 2>&1'", True),
        ("ttyS0::respawn:/bin/bash --noprofile --rcfile /etc/rc", True),
        ("ttyS0::respawn:/bin/bash --norc -i", True),
        ("ttyS0::respawn:/bin/zsh", True),
        ("ttyS0::respawn:/bin/sh -x", True),
        ("ttyS0::respawn:chroot /mnt /bin/sh", True),
        ("ttyS0::respawn:chroot --userspec=0 /mnt", True),
        ("ttyS0::respawn:exec </dev/ttyS0; /bin/sh", True),
        ("ttyS0::respawn:/bin/su - -c /bin/sh", True),
        ("ttyS0::respawn:sulogin --force", True),
        ("ttyS0::respawn:/sbin/rungetty -u root tty1 -- /bin/bash", True),
        ("ttyS0::respawn:/bin/sh -lc 'exec bash'", True),
        ("::sysinit:/bin/mount -a && /bin/sh /etc/rc", False),
        ("::sysinit:cat /etc/setup | sh", False),
        ("::sysinit:chroot /mnt /opt/meter", False),
        ("::once:sulogin", False),
        ("::respawn:/bin/sh -ec '/opt/meter; sync'", False),
        ("::respawn:/bin/bash -o pipefail /opt/meter", False),
        ("::respawn:/sbin/rungetty tty1", False),
        ("ttyS0::respawn:/sbin/agetty -o '-p -- \\u' --noclear ttyS0", False),
        ("ttyS0::respawn:/sbin/getty -l /bin/login 115200 ttyS0", False),
        ("::respawn:su -c /opt/meter", False),
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


def running(*commands: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"pid": pid, "ppid": 1, "name": "", "command": command} for pid, command in commands]


@pytest.mark.parametrize(
    ("protocol", "port", "process", "unit", "kind"),
    [("tcp", 445, "docker-proxy", "docker.service", "netbios"), ("udp", 69, "dnsmasq", "dnsmasq.service", "tftp"),
     ("tcp", 23, "meterd", "meter.service", "telnet"), ("tcp", 23, "inetd", "inetd.service", "telnet")],
)  # fmt: skip
def test_a_program_of_another_kind_is_reported_for_its_port_and_never_stopped(
    protocol: str, port: int, process: str, unit: str, kind: str
) -> None:
    one = device(
        listening=[socket(protocol, port, process, unit)],
        units={unit: {"active": "active", "enabled": "enabled", "path": ""}},
    )
    (found,) = legacy.find(one, {})
    assert found.kind == kind and not legacy.plan(one, [found])
    assert found.report()["listens"] == [f"{port}/{protocol}"]
    assert f"{process} ({unit}) listens on {port}/{protocol}, where {kind} is expected" in found.unhandled[0]
    assert legacy.find(one, {kind: "wanted"})[0].reason == "wanted"


def test_a_client_of_ssdp_is_no_upnp_service() -> None:
    one = device(listening=[socket("udp", 1900, "hass", "home-assistant.service")])
    assert legacy.find(one, {}) == []


@pytest.mark.parametrize(
    "unit",
    [
        "block-telnet.service",
        "prometheus-snmpd-exporter.service",
        "tr069-watchdog.service",
        "no-ftpd.service",
    ],
)
def test_a_unit_with_one_of_the_words_in_its_name_is_left_alone(unit: str) -> None:
    assert legacy.find(device(units={unit: {"active": "active", "enabled": "enabled", "path": ""}}), {}) == []


@pytest.mark.parametrize(
    ("process", "command"),
    [
        ("mosquitto", "/usr/sbin/mosquitto -c /etc/mosquitto/upnp.conf"),
        ("node", "node /srv/portal/index.js --hide telnetd"),
        ("process-exporter", "process-exporter -procnames sshd,snmpd,nginx telnetd"),
        ("python3", "python3 /opt/block-telnet.py telnetd"),
    ],
)
def test_a_word_in_the_arguments_stops_nobody(process: str, command: str) -> None:
    one = device(
        listening=[socket("tcp", 1883, process, f"{process}.service")], processes=running((9, command))
    )
    assert legacy.find(one, {}) == []
    script = {"/etc/rc.local": f"#!/bin/sh\n{command} &\n"}
    assert legacy.find(device(files=script), {}) == []


@pytest.mark.parametrize(
    "command",
    [
        "python3 /opt/telnetd.py",
        "/usr/bin/perl -w /srv/telnet-server.pl",
        "busybox telnetd -p 24",
        "nice -n 5 telnetd",
    ],
)
def test_an_interpreter_and_a_wrapper_are_what_they_run(command: str) -> None:
    one = device(
        listening=[socket("tcp", 24, command.split()[0], "x.service")], processes=running((9, command))
    )
    assert kinds(legacy.find(one, {})) == ["telnet"]


@pytest.mark.parametrize(
    "line",
    ["killall telnetd", "rm -f /usr/sbin/telnetd", "chmod 000 /usr/sbin/in.ftpd", "pidof telnetd && killall telnetd",
     "iptables -A INPUT -p tcp --dport 23 -m comment --comment telnetd -j DROP", "systemctl stop telnetd",
     "start-stop-daemon -K -x /usr/sbin/telnetd", "command -v telnetd >/dev/null", "PIDFILE=/var/run/telnetd",
     "echo telnetd", "[ -x /usr/sbin/telnetd ] && rm /usr/sbin/telnetd"],
)  # fmt: skip
def test_a_line_that_stops_or_names_a_service_starts_none(line: str) -> None:
    assert legacy.find(device(files={"/etc/rc.local": f"#!/bin/sh\n{line}\n"}), {}) == []


@pytest.mark.parametrize(
    "line",
    ["telnetd -l /bin/sh &", "start-stop-daemon -S -b -x /usr/sbin/telnetd -- -F", "(sleep 5; telnetd) &",
     "[ -x /usr/sbin/telnetd ] && /usr/sbin/telnetd", "DAEMON=/usr/sbin/telnetd", "nohup busybox telnetd -F >/dev/null 2>&1 &",
     "killall telnetd; telnetd -p 24", "procd_set_param command /usr/sbin/telnetd -F", "sh -c 'sleep 3; telnetd'",
     "while :; do telnetd -F; done &", "export DAEMON=telnetd"],
)  # fmt: skip
def test_a_line_that_starts_one_is_found_however_it_is_wrapped(line: str) -> None:
    assert kinds(legacy.find(device(files={"/etc/rc.local": f"#!/bin/sh\n{line}\n"}), {})) == ["telnet"]


def test_a_second_daemon_that_nothing_starts_does_not_hide_behind_the_first() -> None:
    one = device(
        files={"/etc/inittab": "::respawn:/usr/sbin/telnetd -F\n"},
        listening=[socket("tcp", 23, "telnetd", pid=8), socket("tcp", 9923, "telnetd", pid=9)],
        processes=running((8, "/usr/sbin/telnetd -F"), (9, "telnetd -p 9923 -l /bin/sh")),
    )
    (found,) = legacy.find(one, {})
    assert found.unhandled == ["telnetd listens on 9923/tcp, and nothing that starts it was found"]
    one["files"]["/etc/inittab"] += "::respawn:telnetd -F -p 9923 -l /bin/sh\n"
    assert legacy.find(one, {})[0].unhandled == []


@pytest.mark.parametrize("unit", ["cron.service", "rc-local.service", "docker.service", "ssh.service"])
def test_a_unit_that_starts_what_others_told_it_to_is_never_masked(unit: str) -> None:
    one = device(listening=[socket("tcp", 2323, "telnetd", unit)], processes=running((9, "telnetd -p 2323")))
    (found,) = legacy.find(one, {})
    assert not legacy.plan(one, [found]).files and found.unhandled
    one["files"] = {"/var/spool/cron/crontabs/root": "@reboot telnetd -p 2323\n"}
    (found,) = legacy.find(one, {})
    assert found.unhandled == [] and [entry["dest"] for entry in legacy.plan(one, [found]).files] == [
        *one["files"]
    ]


@pytest.mark.parametrize("path", ["/etc/crontab", "/etc/cron.d/help"])
def test_the_user_of_a_system_crontab_is_no_part_of_the_command(path: str) -> None:
    files = {
        path: "@reboot\troot  /usr/sbin/telnetd -p 9923\n",
        "/etc/crontabs/root": "@reboot telnetd -p 24\n",
    }
    one = device(files=files, listening=[socket("tcp", 9923, "telnetd"), socket("tcp", 24, "telnetd")])
    plan = legacy.plan(one, legacy.find(one, {}))
    assert "( /usr/sbin/telnetd -p 9923 ) </dev/null >/dev/null 2>&1 &" in plan.revert
    assert "( telnetd -p 24 ) </dev/null >/dev/null 2>&1 &" in plan.revert


def test_an_xinetd_service_is_read_whatever_white_space_it_is_written_with() -> None:
    text = "service\ttelnet\n{\n\tserver = /usr/sbin/in.telnetd\n\tport = 2323\n}\n"
    one = device(files={"/etc/xinetd.d/x": text}, listening=[socket("tcp", 2323, "xinetd", "xinetd.service")])
    (found,) = legacy.find(one, {})
    assert found.kind == "telnet" and found.unhandled == []
    after = str(legacy.plan(one, [found]).files[0]["content"])
    assert list(boot_files.entries("/etc/xinetd.d/x", after)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/inetd.conf", "2323 stream tcp nowait root /bin/sh sh -i\n"),
        (
            "/etc/xinetd.d/x",
            "service help\n{\ntype = UNLISTED\nserver = /bin/sh\nserver_args = -i\nport = 2323\n}\n",
        ),
    ],
)
def test_a_shell_that_inetd_serves_goes(path: str, text: str) -> None:
    process = "inetd" if "inetd.conf" in path else "xinetd"
    one = device(files={path: text}, listening=[socket("tcp", 2323, process, f"{process}.service")])
    (found,) = legacy.find(one, {})
    assert (found.kind, found.unhandled, found.sockets) == ("debug server", [], {("tcp", 2323)})
    assert path in {entry["dest"] for entry in legacy.plan(one, [found]).files}
    script = text.replace("sh -i", "sh /opt/x").replace("server_args = -i", "server_args = /opt/x")
    assert legacy.find(device(files={path: script}), {}) == []


SHOWN = """\
Id=maint.service
ExecStart={ path=/usr/sbin/telnetd ; argv[]=/usr/sbin/telnetd -F -p 2323 ; ignore_errors=no ; start_time=[n/a] ; pid=0 }

Id=help.socket
Triggers=

Id=help@sallyport.service
ExecStart={ path=/usr/sbin/in.telnetd ; argv[]=/usr/sbin/in.telnetd ; ignore_errors=yes ; start_time=[n/a] ; pid=0 }

Id=away.socket
Triggers=care.service

Id=care.service
ExecStart={ path=/bin/sh ; argv[]=/bin/sh -c sleep 3; exec /usr/sbin/atftpd --daemon ; ignore_errors=no ; pid=0 }

Id=autologin@sallyport.service
ExecStart={ path=/sbin/agetty ; argv[]=/sbin/agetty --autologin root --noclear sallyport ; ignore_errors=yes ; pid=0 }

Id=watch.service
ExecStart={ path=/opt/watch ; argv[]=/opt/watch telnetd ; ignore_errors=no ; pid=0 }
"""


def test_what_a_unit_runs_counts_and_not_what_it_is_called() -> None:
    up, later = {"active": "active", "enabled": "static"}, {"active": "inactive", "enabled": "enabled"}
    one = device(
        units={"maint.service": later, "help.socket": up, "away.socket": later, "watch.service": up, "autologin@.service": later,
               "off.service": {"active": "inactive", "enabled": "disabled"}},
        listening=[socket("tcp", 2324, "systemd", "help.socket", pid=1), socket("tcp", 77, "telnetd", "watch.service")],
    )  # fmt: skip
    asked = legacy.asking(one)
    assert "autologin@sallyport.service" in asked and "@." not in asked
    assert "help@sallyport.service" in asked and "maint.service" in asked and "off.service" not in asked
    assert "Triggers --value away.socket" in asked.replace("help.socket ", "").replace(" help.socket", "")
    one = legacy.with_commands(one, Reply((("unit_commands", SHOWN),), 0))
    found = {each.kind: each for each in legacy.find(one, {})}
    assert found["telnet"].units == {"maint.service", "help.socket"} and found["tftp"].units == {
        "away.socket"
    }
    assert ("tcp", 2324) in found["telnet"].sockets
    assert found["telnet"].unhandled == ["telnetd listens on 77/tcp, and nothing that starts it was found"]
    masked = {entry["dest"].rpartition("/")[2] for entry in legacy.plan(one, [*found.values()]).files}
    assert masked == {"maint.service", "help.socket", "away.socket", "autologin@.service"}
    assert "'autologin@*.service'" in legacy.plan(one, [*found.values()]).activate[0]
    assert legacy.asking(device()) == ""


def test_a_getty_that_leaves_it_to_another_program_who_gets_in_is_for_somebody_to_look_at() -> None:
    line = "ttyS0::respawn:/sbin/getty -n -l /usr/bin/rootsh 115200 ttyS0\n"
    (found,) = legacy.find(device(files={"/etc/inittab": line}), {})
    assert found.kind == "console" and "by /usr/bin/rootsh: look whether that asks" in found.unhandled[0]
    assert not legacy.plan(device(), [found])
    for fine in (line.replace("rootsh", "login"), line.replace(" -n", "")):
        assert legacy.find(device(files={"/etc/inittab": fine}), {}) == []


TIMED = """\
Id=maint.timer
ActiveState=active
Triggers=maint.service

Id=off.timer
ActiveState=inactive
Triggers=maint.service

Id=drop.path
ActiveState=active
Triggers=drop.service

Id=maint.service
ActiveState=inactive
ExecStart={ path=/usr/sbin/telnetd ; argv[]=/usr/sbin/telnetd -F -p 2323 ; ignore_errors=no }

Id=drop.service
ActiveState=inactive
ExecStart={ path=/usr/bin/logrotate ; argv[]=/usr/bin/logrotate ; ignore_errors=no }
"""


def test_what_a_timer_of_systemd_starts_goes_with_its_timer_and_only_the_timer_comes_back() -> None:
    one = device(units={"ssh.service": {"active": "active", "enabled": "enabled"}})
    assert "'*.timer' '*.path'" in legacy.asking(one)
    one = legacy.with_commands(one, Reply((("unit_commands", TIMED),), 0))
    (found,) = legacy.find(one, {})
    assert (found.kind, found.units) == ("telnet", {"maint.timer", "maint.service"})
    plan = legacy.plan(one, [found])
    assert [entry["dest"].rpartition("/")[2] for entry in plan.files] == ["maint.service", "maint.timer"]
    assert "systemctl reset-failed maint.timer 2>/dev/null || :" in plan.activate
    assert "systemctl start maint.timer" in "".join(plan.revert)
    assert "systemctl start maint.service" not in "".join(plan.revert)
    off = legacy.with_commands(
        device(), Reply((("unit_commands", TIMED.replace("ActiveState=active", "ActiveState=inactive")),), 0)
    )
    assert legacy.find(off, {}) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/etc/crontab", "*/5 * * * * root pidof telnetd || /usr/sbin/telnetd -p 9923"),
        ("/etc/cron.d/care", "@hourly root /usr/sbin/telnetd -p 9923"),
        ("/etc/crontabs/root", "*/5 *\t* * * telnetd -p 9923"),
    ],
)
def test_a_line_of_cron_starts_what_it_names_whenever_that_is(path: str, line: str) -> None:
    text = f"SHELL=/bin/sh\nMAILTO = root\n{line}\n5 4 * * * root\n5 4 * * * root killall telnetd\n"
    one = device(files={path: text}, listening=[socket("tcp", 9923, "telnetd")])
    (found,) = legacy.find(one, {})
    assert found.kind == "telnet" and [entry.line for entry in found.entries] == [3]
    assert not any("telnetd -p" in command for command in legacy.plan(one, [found]).revert), "cron does that"
    assert legacy.plan(one, [found]).files[0]["content"].splitlines()[2] == f"{boot_files.MARK}{line}"


def test_a_crontab_of_roots_own_is_read_for_this_alone_and_shown_to_nobody() -> None:
    path = "/var/spool/cron/crontabs/root"
    one = device(tools={"crond": "/usr/sbin/crond"})
    assert f'blob "aside "{path} <{path}' in legacy.asking(one)
    assert path not in legacy.asking({**one, "files": {path: "@reboot x"}}), "the probe has sent it"
    assert legacy.asking(device(tools={"nc": "/bin/nc"})) == ""
    text = "0 * * * * curl -u me:secret http://gw\n*/5 * * * * pidof telnetd || telnetd\n"
    one = legacy.with_commands(one, Reply(((f"aside {path}", text),), 0))
    (found,) = legacy.find(one, {})
    (entry,) = legacy.plan(one, [found]).files
    assert entry["dest"] == path and entry["secret"] and "me:secret" in entry["content"]
    assert "secret" not in str(legacy.shown(one)) and "secret" not in str(found.report())


def test_a_file_that_is_not_utf_8_is_read_all_the_same_and_one_that_is_too_long_is_named() -> None:
    omitted = {
        "/etc/inittab": "is not UTF-8",
        "/etc/init.d/rcS": "is longer than 65536 bytes",
        "/etc/ssh/x": "is not UTF-8",
    }
    one = device(files_omitted=omitted)
    assert legacy.asking(one) == 'if [ -r /etc/inittab ]; then blob "aside "/etc/inittab </etc/inittab; fi\n'
    text = b"# Ger\xe4t\nttyS0::respawn:/bin/sh\n".decode("utf-8", "surrogateescape")
    one = legacy.with_commands(one, Reply((("aside /etc/inittab", text),), 0))
    (found,) = legacy.find(one, {})
    (entry,) = legacy.plan(one, [found]).files
    after = entry["content"].encode("utf-8", "surrogateescape")
    assert (
        found.kind == "console"
        and after == b"# Ger\xe4t\n" + f"{boot_files.MARK}ttyS0::respawn:/bin/sh\n".encode()
    )
    assert legacy.unread(one) == [
        "/etc/init.d/rcS is longer than 65536 bytes, so what it starts was not looked at; look at it by hand, or make it readable"
    ]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("nc -l -p 4444 -e /bin/sh", "debug server"),
        ("nc -lvp 4444 -e /bin/bash", "debug server"),
        ("busybox nc -ll -p 4444 -e /bin/sh -i", "debug server"),
        ("nc.traditional -nlkp4444 -c 'sh -i'", "debug server"),
        ("ncat -l 4444 -k --sh-exec '/bin/sh'", "debug server"),
        ("ncat --listen --exec=/bin/bash 4444", "debug server"),
        ("nc -e /bin/sh -l -p 4444 10.0.0.9", "debug server"),
        ("socat TCP-LISTEN:4444,reuseaddr,fork EXEC:/bin/sh", "debug server"),
        ("socat -d TCP6-L:4444,fork EXEC:'bash -li',pty,stderr,setsid", "debug server"),
        ("socat UDP4-LISTEN:4444 SYSTEM:/bin/sh", "debug server"),
        ("socat OPENSSL-LISTEN:4444,cert=/a.pem,verify=0,fork EXEC:sh", "debug server"),
        ("socat EXEC:/bin/sh tcp-listen:4444", "debug server"),
        ("tcpsvd -vE -c 3 0.0.0.0 4444 /bin/sh -i", "debug server"),
        ("ttyd -p 4444 -W bash", "debug server"),
        ("nc -l -p 4444 -e /bin/login", "telnet"),
        ("tcpsvd -vE 0.0.0.0 4444 ftpd -w /srv", "ftp"),
        ("busybox tcpsvd 0 4444 telnetd -i", "telnet"),
        ("udpsvd -hE 0 4444 tftpd /srv", "tftp"),
        ("nc -l -p 4444 -e /bin/sh /opt/meter.sh", ""),
        ("nc -l -p 4444", ""),
        ("nc -e /bin/sh 10.0.0.9 4444", ""),
        ("nc -z -w 5 gateway 4444", ""),
        ("socat UNIX-LISTEN:/run/4444,fork EXEC:/bin/sh", ""),
        ("socat TCP-LISTEN:4444,fork TCP:10.0.0.9:80", ""),
        ("socat TCP-LISTEN:4444,fork EXEC:/opt/meter", ""),
        ("socat OPENSSL-LISTEN:4444,cert=/a.pem,cafile=/b.pem EXEC:/bin/sh", ""),
        ("ttyd -p 4444 -c me:secret bash", ""),
        ("tcpsvd 0 4444 /opt/meter", ""),
        ("socat - EXEC:/bin/sh", ""),
    ],
)
def test_what_gives_a_shell_to_whoever_connects_is_found_where_it_starts_and_where_it_listens(
    command: str, kind: str
) -> None:
    expected = [kind] if kind else []
    for path, text in {
        "/etc/rc.local": f"#!/bin/sh\n{command} &\n",
        "/etc/inittab": f"::respawn:{command}\n",
        "/etc/cron.d/x": f"@reboot root {command}\n",
    }.items():
        assert kinds(legacy.find(device(files={path: text}), {})) == expected, path
    program = command.split()[0]
    unit = {"x.service": {"active": "active", "enabled": "enabled"}}
    one = device(
        listening=[socket("tcp", 4444, program, "x.service")], processes=running((9, command)), units=unit
    )
    found = legacy.find(one, {})
    assert kinds(found) == expected and not any(each.unhandled for each in found)
    if kind:
        plan = legacy.plan(one, found)
        assert [entry["dest"] for entry in plan.files] == ["/etc/systemd/system/x.service"]
    asleep = device(units={"x.service": {"active": "inactive", "enabled": "enabled"}})
    shown = f"Id=x.service\nExecStart={{ path=x ; argv[]=/usr/bin/{command} ; ignore_errors=no }}\n"
    assert (
        kinds(legacy.find(legacy.with_commands(asleep, Reply((("unit_commands", shown),), 0)), {}))
        == expected
    )


def test_a_shell_behind_a_pipe_and_a_netcat_goes_with_the_netcat() -> None:
    line = "mkfifo /tmp/f; cat /tmp/f | /bin/sh -i 2>&1 | nc -l 4444 >/tmp/f &"
    one = device(
        files={"/etc/rc.local": f"#!/bin/sh\n{line}\n"},
        listening=[socket("tcp", 4444, "nc"), socket("tcp", 4445, "nc", pid=8)],
        processes=running((9, "nc -l 4444"), (8, "nc -l 4445")),
    )
    (found,) = legacy.find(one, {})
    assert (found.kind, found.sockets, found.unhandled) == ("debug server", {("tcp", 4444)}, [])
    report = device(files={"/etc/rc.local": "#!/bin/sh\ndmesg | nc -l 4444 &\nsh -i | tee /tmp/f\n"})
    assert legacy.find(report, {}) == []


def test_each_shell_server_is_accounted_for_by_its_port() -> None:
    one = device(
        files={"/etc/inittab": "::respawn:nc -ll -p 4444 -e /bin/sh\n"},
        listening=[socket("tcp", 4444, "nc", pid=8), socket("tcp", 5555, "nc", pid=9)],
        processes=running((8, "nc -ll -p 4444 -e /bin/sh"), (9, "nc -ll -p 5555 -e /bin/sh")),
    )
    (found,) = legacy.find(one, {})
    assert found.unhandled == ["nc listens on 5555/tcp, and nothing that starts it was found"]


def test_a_socket_of_systemd_whose_service_is_a_shell_goes() -> None:
    one = device(units={"help.socket": {"active": "active", "enabled": "enabled"}},
                 listening=[socket("tcp", 4444, "systemd", "help.socket", pid=1)])  # fmt: skip
    shown = SHOWN.replace("/usr/sbin/in.telnetd", "/bin/sh -i")
    (found,) = legacy.find(legacy.with_commands(one, Reply((("unit_commands", shown),), 0)), {})
    assert (found.kind, found.units, found.sockets) == ("debug server", {"help.socket"}, {("tcp", 4444)})


@pytest.mark.parametrize(
    "line",
    ["while :; do nc -l -p 4444 -e /bin/sh; done &", "(sleep 5; nc -l -p 4444 -e /bin/sh) &",
     "if [ -x /bin/nc ]; then nc -l -p 4444 -e /bin/sh; fi", "{ nc -l -p 4444 -e /bin/sh; }",
     "until false; do nc -l -p 4444 -e /bin/sh; done >/dev/null 2>&1 &"],
)  # fmt: skip
def test_a_construct_that_is_one_line_goes_as_one(line: str) -> None:
    one = device(files={"/etc/rc.local": f"#!/bin/sh\n{line}\n"})
    (found,) = legacy.find(one, {})
    assert found.unhandled == []
    text = legacy.plan(one, [found]).files[0]["content"]
    assert text.splitlines()[1] == f": {boot_files.MARK}{line}"
    half = device(files={"/etc/rc.local": f"#!/bin/sh\n{line.rsplit(' ', 2)[0]}\n"})
    for each in legacy.find(half, {}):
        assert "one line" not in "".join(each.unhandled) or not legacy.plan(half, [each]).files


def test_a_loop_that_loses_its_body_rests_and_does_not_run_in_circles() -> None:
    script = "#!/bin/sh\n# while nobody looks\nif true; then\n  telnetd\nfi\nwhile :; do\n  telnetd -F\ndone &\ntelnetd -p 24\n"
    one = device(files={"/etc/init.d/rcS": script})
    text = legacy.plan(one, legacy.find(one, {})).files[0]["content"]
    assert text.splitlines()[3::3] == [
        f"  : {boot_files.MARK}telnetd",
        f"  sleep 60 {boot_files.MARK}telnetd -F",
    ]
    assert text.splitlines()[-1] == f": {boot_files.MARK}telnetd -p 24"
    assert legacy.find(device(files={"/etc/init.d/rcS": text}), {}) == []


CONSOLES = """\
Id=serial-getty@ttyS0.service
DropInPaths=/usr/lib/systemd/system/serial-getty@.service.d/auto.conf
ExecStart={ path=/sbin/agetty ; argv[]=/sbin/agetty --autologin root %I 115200 ; ignore_errors=yes }

Id=getty@tty1.service
ExecStart={ path=/sbin/agetty ; argv[]=/sbin/agetty -o -p -- \\\\u --noclear - $TERM ; ignore_errors=yes }

Id=getty@tty2.service
ExecStart={ path=/sbin/agetty ; argv[]=/sbin/agetty -a root tty2 ; ignore_errors=yes }
"""


@pytest.mark.parametrize("folder", ["/usr/lib", "/run", "/lib", "/usr/local/lib"])
def test_a_console_that_a_packages_or_a_running_drop_in_opens_asks_again_and_stays_so_after_an_upgrade(
    folder: str,
) -> None:
    path = f"{folder}/systemd/system/serial-getty@.service.d/auto.conf"
    one = device(units={"ssh.service": {"active": "active", "enabled": "enabled"}})
    assert "'*getty*.service'" in legacy.asking(one)
    shown = Reply((("unit_commands", CONSOLES), (f"drop_in {path}", f"{AUTOLOGIN}TTYReset=no\n")), 0)
    one = legacy.with_commands(one, shown)
    (found,) = legacy.find(one, {})
    assert found.kind == "console" and found.units == {"getty@tty2.service"}
    plan = legacy.plan(one, [found])
    dropped, masked = plan.files
    assert dropped["dest"] == "/etc/systemd/system/serial-getty@.service.d/auto.conf"
    assert [line for line in dropped["content"].splitlines() if not line.startswith("#")] == [
        "[Service]",
        "TTYReset=no",
    ]
    assert masked == {"dest": "/etc/systemd/system/getty@tty2.service", "link": "/dev/null"}
    assert any("try-restart 'serial-getty@*.service'" in text for text in plan.activate)
    # systemd itself then says which file counts.
    after = {**one, "files": {dropped["dest"]: dropped["content"]}, "units": {}, "unit_commands": {}}
    assert legacy.find(after, {}) == []
