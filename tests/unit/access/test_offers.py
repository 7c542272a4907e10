"""What is compiled into a daemon is named, not hidden."""

from __future__ import annotations

from ansible_collections.sallyport.iot.plugins.plugin_utils.access import offers

SSH = """\
debug2: local client KEXINIT proposal
debug2: KEX algorithms: sntrup761x25519-sha512,ext-info-c
debug2: ciphers stoc: aes128-ctr
debug2: peer server KEXINIT proposal
debug2: KEX algorithms: curve25519-sha256,diffie-hellman-group14-sha1,kexguess2@matt.ucc.asn.au,kex-strict-s-v00@openssh.com
debug2: host key algorithms: ssh-ed25519,ssh-rsa
debug2: ciphers ctos: 3des-cbc
debug2: ciphers stoc: aes128-ctr
debug2: MACs ctos: hmac-md5
debug2: MACs stoc: hmac-sha1,hmac-sha2-256
debug2: compression stoc: none
"""


def test_the_servers_own_proposal_is_read_and_what_is_weaker_is_named() -> None:
    assert offers.weaker(offers.parse(SSH)) == {
        "kex": ["diffie-hellman-group14-sha1"],
        "hostkeyalgs": ["ssh-rsa"],
        "mac": ["hmac-sha1", "hmac-sha2-256"],
    }


def test_a_daemon_that_cannot_be_asked_offers_nothing_that_could_be_named() -> None:
    assert offers.parse("ssh: connect to host x port 22: Connection refused") == {}
    assert offers.ask(["/nonexistent/ssh", "host"]) == {}
