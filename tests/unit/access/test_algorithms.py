"""The lists come from what the device can, never from what we wish it could."""

from __future__ import annotations

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.access import algorithms

DEBIAN_11 = {
    "kex": ["diffie-hellman-group1-sha1", "curve25519-sha256", "curve25519-sha256@libssh.org",
            "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
            "diffie-hellman-group-exchange-sha256", "ecdh-sha2-nistp256"],
    "cipher": ["3des-cbc", "aes128-ctr", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
    "mac": ["hmac-sha1", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"],
    "key": ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ssh-dss"],
    "hostkeyalgs": ["ssh-ed25519", "ssh-rsa", "rsa-sha2-256", "rsa-sha2-512", "ecdsa-sha2-nistp256"],
}  # fmt: skip
DEBIAN_13 = {**DEBIAN_11, "kex": [*DEBIAN_11["kex"], "mlkem768x25519-sha256", "sntrup761x25519-sha512"]}


def test_only_what_the_device_supports_is_chosen_in_order_of_preference() -> None:
    chosen = algorithms.choose(DEBIAN_11)
    assert chosen.lists["cipher"] == ("chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr")
    assert chosen.lists["mac"] == ("hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com")
    assert chosen.lists["hostkeyalgs"] == ("ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256")


def test_classical_key_exchange_stays_only_for_old_clients_and_is_named() -> None:
    old = algorithms.choose(DEBIAN_13, oldest_client="openssh-8.4")
    new = algorithms.choose(DEBIAN_13, oldest_client="openssh-9.0")
    assert old.lists["kex"][0] == "mlkem768x25519-sha256" and "curve25519-sha256" in old.lists["kex"]
    assert old.kept_for_clients == ("curve25519-sha256", "curve25519-sha256@libssh.org")
    assert new.lists["kex"] == ("mlkem768x25519-sha256", "sntrup761x25519-sha512")
    assert new.kept_for_clients == ()


def test_a_device_without_post_quantum_exchange_keeps_the_classical_one_whatever_the_clients() -> None:
    chosen = algorithms.choose(DEBIAN_11, oldest_client="openssh-10.0")
    assert chosen.lists["kex"] == ("curve25519-sha256", "curve25519-sha256@libssh.org")


def test_sha1_and_dsa_are_never_accepted_for_logins_but_rsa_keys_go_on_working() -> None:
    chosen = algorithms.choose({**DEBIAN_11, "hostkeyalgs": []})
    assert "ssh-rsa" not in chosen.user_keys and "ssh-dss" not in chosen.user_keys
    assert "rsa-sha2-512" in chosen.user_keys and "ecdsa-sha2-nistp256" in chosen.user_keys


def test_the_profile_of_ssh_audit_has_the_order_of_the_policy_for_each_release() -> None:
    eleven = algorithms.choose(DEBIAN_11, profile="ssh-audit").lists
    assert eleven["kex"][-1] == "diffie-hellman-group-exchange-sha256"
    assert eleven["cipher"] == ("chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr")
    assert eleven["mac"] == ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
    thirteen = algorithms.choose(DEBIAN_13, profile="ssh-audit")
    assert "curve25519-sha256" not in thirteen.lists["kex"]
    assert thirteen.lists["mac"] == algorithms.choose(DEBIAN_13).lists["mac"]


def test_clients_that_a_profile_leaves_outside_are_known() -> None:
    chosen = algorithms.choose(DEBIAN_13, profile="ssh-audit")
    assert algorithms.left_out(chosen, "openssh-8.4") and not algorithms.left_out(chosen, "openssh-8.5")
    assert not algorithms.left_out(algorithms.choose(DEBIAN_13), "openssh-8.4")


def test_a_device_with_nothing_strong_is_refused_by_name() -> None:
    with pytest.raises(algorithms.AlgorithmsRefused, match="no strong cipher algorithm; it has 3des-cbc"):
        algorithms.choose({**DEBIAN_11, "cipher": ["3des-cbc"]})


def test_lists_that_this_controller_cannot_speak_are_refused() -> None:
    chosen = algorithms.choose(DEBIAN_13, oldest_client="openssh-9.9")
    algorithms.check_controller(chosen, {"kex": ["sntrup761x25519-sha512"], "cipher": ["aes128-ctr"]})
    with pytest.raises(
        algorithms.AlgorithmsRefused, match=r"speaks none of the kex algorithms.*set ssh_clients"
    ):
        algorithms.check_controller(chosen, {"kex": ["curve25519-sha256"]})


def test_a_device_that_does_not_tell_keeps_its_own_lists_and_is_named() -> None:
    chosen = algorithms.choose({})
    assert chosen.lists == {} and chosen.unknown == algorithms.KINDS and chosen.user_keys == ()


@pytest.mark.parametrize("client", ["8.4", "dropbear-2022", "openssh-", "openssh-x.1", "openssh-6.4"])
def test_a_client_that_is_no_openssh_version_or_too_old_is_refused(client: str) -> None:
    with pytest.raises(algorithms.AlgorithmsRefused, match="ssh_clients: expected"):
        algorithms.choose(DEBIAN_11, oldest_client=client)
