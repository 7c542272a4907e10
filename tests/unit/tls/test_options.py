"""A wrong variable is named, with what was expected, before anybody is asked anything; a secret never is."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls import options
from ansible_collections.sallyport.iot.plugins.plugin_utils.tls.options import OptionError

from tests.unit.tls.makers import CA, CA_KEY, pair, wanted

ACME = {"mode": "device", "names": ["gw.example"], "acme_agree": True}
MADE, KEY = pair("gw.example")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "own"}, "set tls_certificate and tls_private_key"),
        (
            {"mode": "own", "certificate": MADE, "private_key": KEY, "names": ["x.example"]},
            "tls_certificate: the cert",
        ),
        ({"mode": "own", "ca_certificate": CA, "names": ["x.example"]}, "belong together"),
        ({"mode": "own", "ca_certificate": CA, "ca_key": CA_KEY}, "tls_names is empty"),
        (
            {"mode": "own", "ca_certificate": CA, "ca_key": KEY, "names": ["x.example"]},
            "not the key of tls_ca_cert",
        ),
        ({**ACME, "acme_agree": False}, "tls_acme_agree must be true"),
        ({**ACME, "names": []}, "tls_names is empty"),
        ({**ACME, "names": ["ok.example", "no good"]}, r"tls_names\[1\]: 'no good' is neither"),
        ({**ACME, "acme_directory": "http://ca.example/dir"}, "must be an https URL"),
        ({**ACME, "acme_root": "no PEM"}, "tls_acme_root: it holds no certificate"),
        ({**ACME, "acme_eab_kid": "one"}, "belong together"),
        ({**ACME, "acme_email": "a b@example"}, "must not hold spaces"),
        ({**ACME, "challenge": "dns"}, "set tls_dns_plugin .* or tls_dns_hook"),
        ({**ACME, "challenge": "dns", "dns_hook": "x", "dns_plugin": "rfc2136"}, "are both set"),
        ({**ACME, "challenge": "dns", "dns_plugin": "rfc2136\nserver = x"}, "without its dns-"),
        ({**ACME, "names": ["*.example"]}, "only for tls_challenge: dns"),
        ({**ACME, "mode": "controller", "challenge": "nginx"}, "use dns, standalone or webroot"),
        ({"upstream": "10.0.0.1:80"}, "must be a loopback address"),
        ({"upstream": "127.0.0.1:99999"}, "a port up to 65535"),
        (
            {"mosquitto_port": 8883, "lighttpd_port": 8883},
            "tls_lighttpd_port and tls_mosquitto_port are both 8883",
        ),
        ({"upstream": "127.0.0.1:443"}, "tls_port and tls_upstream are both 443"),
        ({"front": "nginx", "lighttpd_port": 443}, "tls_port and tls_lighttpd_port are both 443"),
        ({**ACME, "challenge": "standalone", "http_port": 8080, "gate": True}, "tls_gate opens port 80"),
        ({"http_port": 0}, "tls_http_port must be a port, got 0"),
        ({"webroot": "/var/www; rm -rf /"}, "tls_webroot must be an absolute path"),
        ({"also_client": True}, "for certificates that the fleet's own CA signs"),
        ({"port": 0}, "tls_port must be a port"),
        ({"warn_days": 3, "fail_days": 7}, "must not be more than tls_warn_days"),
        ({"client_crl": "x"}, "tls_client_crl needs tls_client_ca"),
        ({"client_ca": CA + CA_KEY}, "tls_client_ca holds a private key besides"),
        ({**ACME, "acme_root": CA_KEY + CA}, "tls_acme_root holds a private key besides"),
        ({**ACME, "names": ["fe80::1%a;\n}\nserver { listen 81; }#"]}, r"tls_names\[0\]: .* is neither"),
        ({"client_ca": CA, "client_crl": "x"}, "tls_client_crl cannot be read"),
    ],
)
def test_a_wrong_variable_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        wanted(**changed)
    assert KEY.splitlines()[1] not in str(caught.value) and CA_KEY.splitlines()[1] not in str(caught.value)


def test_what_is_right_is_taken() -> None:
    assert wanted().mode == "none"
    assert wanted(**ACME).name == "gw.example"
    assert wanted(mode="own", certificate=MADE, private_key=KEY).private_key == KEY
    assert wanted(upstream="127.0.0.1:8080").upstream_port == 8080


def test_secrets_are_marked_so_that_ansible_hides_them() -> None:
    secret = {name for name, spec in options.SPEC.items() if spec.get("no_log")}
    assert secret == {"private_key", "ca_key", "acme_eab_key", "dns_hook", "dns_credentials"}
