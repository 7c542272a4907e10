# Copyright (c) The Sallyport authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls
short_description: A certificate for a device, and services that serve it
version_added: 0.1.0
description:
- Looks at the device's clock and certificate, gets a new one where it is due, and has the services serve it, through
  M(sallyport.iot.commit). A certificate that will do costs no request to any CA.
- A private key that is made on the device never leaves it; RV(key_made) says where it was made.
options:
  mode:
    description:
    - Where the certificate comes from. C(none) leaves the device alone; C(own) is the operator's
      certificate, or a CA of the fleet's own; C(device) is certbot on the device; C(controller) is
      certbot on the controller, delivered.
    type: str
    choices: [none, own, device, controller]
    default: none
  names:
    description:
    - Host names and addresses that the certificate is for; it is called by the first.
    type: list
    elements: str
    default: []
  key_type:
    description:
    - C(ecdsa) is P-256, C(rsa) 2048 bits.
    type: str
    choices: [ecdsa, rsa]
    default: ecdsa
  certificate:
    description:
    - Mode own, the device's certificate followed by its intermediates, as PEM.
    type: str
    default: ""
  private_key:
    description:
    - Mode own, the certificate's key as PEM without passphrase, from vault.
    type: str
    default: ""
  ca_certificate:
    description:
    - Mode own, a CA of the fleet's own that signs certificates for its devices, as PEM.
    type: str
    default: ""
  ca_key:
    description:
    - Mode own, the key of O(ca_certificate), from vault. It stays in the controller's memory.
    type: str
    default: ""
  also_client:
    description:
    - Whether a certificate of O(ca_certificate) may be shown as a client's too, to a broker that asks devices
      for one.
    type: bool
    default: false
  lifetime_days:
    description:
    - How long certificates of O(ca_certificate) are valid.
    type: int
    default: 90
  renew_days:
    description:
    - A certificate with fewer days left is renewed; one that lives less than three times as long when a
      third of its life is left.
    type: int
    default: 30
  renew_jitter:
    description:
    - Seconds over which the devices' renewals are spread. Mode device.
    type: int
    default: 43200
  acme_directory:
    description:
    - The CA's ACME directory.
    type: str
    default: https://acme-v02.api.letsencrypt.org/directory
  acme_root:
    description:
    - The root certificate, as PEM, of the CA that the ACME server itself is trusted by. Empty for the
      public ones.
    type: str
    default: ""
  acme_email:
    description:
    - Where the CA writes to. Empty registers without.
    type: str
    default: ""
  acme_agree:
    description:
    - Whether the CA's terms are agreed to. ACME CAs issue nothing otherwise.
    type: bool
    default: false
  acme_eab_kid:
    description:
    - The key identifier of an external account binding.
    type: str
    default: ""
  acme_eab_key:
    description:
    - The HMAC key of an external account binding, from vault.
    type: str
    default: ""
  challenge:
    description:
    - How the CA is shown that the names are this device's. C(nginx) only with mode device.
    type: str
    choices: [webroot, standalone, nginx, dns]
    default: webroot
  http_port:
    description:
    - Port on which certbot answers C(standalone); the CA asks port 80, so another one is for a
      router, or a NAT rule, that leads there.
    type: int
    default: 80
  webroot:
    description:
    - Folder of the web server that answers on port 80. The default one is served by this role's nginx.
    type: path
    default: /var/lib/sallyport-acme
  dns_hook:
    description:
    - For C(dns), the text of a program that is called with C(auth) and C(cleanup) and edits the TXT
      record.
    type: str
    default: ""
  dns_plugin:
    description:
    - For C(dns), in place of a hook, the certbot plugin that edits the TXT record, without its C(dns-).
    type: str
    default: ""
  dns_credentials:
    description:
    - The text of that plugin's credentials file.
    type: str
    default: ""
  dns_propagation:
    description:
    - Seconds that the plugin waits for the record to spread; 0 is its own default.
    type: int
    default: 0
  gate:
    description:
    - Whether port 80 is closed by the firewall and opened for the challenge only, for 10 minutes at
      most.
    type: bool
    default: false
  controller_dir:
    description:
    - Mode controller, the folder for the account at the CA.
    type: path
    default: ~/.config/sallyport/acme
  front:
    description:
    - What stands in front of a web interface that cannot do TLS, or not well. C(auto) takes nginx, else
      stunnel; C(none) only delivers the certificate.
    type: str
    choices: [auto, nginx, stunnel, none]
    default: auto
  port:
    description:
    - The TLS port of the front.
    type: int
    default: 443
  upstream:
    description:
    - The web interface behind the front, a loopback address with port. Empty has nginx serve O(root).
    type: str
    default: ""
  plain:
    description:
    - C(local) moves the plain listener behind the front to loopback; C(leave) leaves it where it is.
    type: str
    choices: [local, leave]
    default: local
  root:
    description:
    - The folder that nginx serves without O(upstream).
    type: path
    default: /var/www/html
  redirect:
    description:
    - Whether port 80 sends browsers to the TLS port; else nginx shows there what it showed.
    type: bool
    default: true
  profile:
    description:
    - Mozilla's TLS profile.
    type: str
    choices: [intermediate, modern]
    default: intermediate
  hsts:
    description:
    - Seconds for Strict-Transport-Security; 0 for none. Browsers then refuse a device whose next
      certificate they do not trust.
    type: int
    default: 0
  client_ca:
    description:
    - Certificates of the CA whose clients alone get in (mutual TLS), as PEM.
    type: str
    default: ""
  client_crl:
    description:
    - That CA's list of revoked certificates, as PEM.
    type: str
    default: ""
  mosquitto_port:
    description:
    - Port of a TLS listener that mosquitto gets besides its own; 0 for none. Where clients may come without a name it
      needs O(client_ca).
    type: int
    default: 0
  lighttpd_port:
    description:
    - Port of a TLS listener that lighttpd gets; 0 for none.
    type: int
    default: 0
  warn_days:
    description:
    - The audit warns when fewer days are left.
    type: int
    default: 21
  fail_days:
    description:
    - The audit fails when fewer days are left.
    type: int
    default: 7
extends_documentation_fragment: [sallyport.iot.committed]
attributes:
  check_mode:
    support: full
    description: Says what would change; changes nothing on the device, and asks no CA.
  diff_mode:
    support: full
    description: Shows every file but the secret ones.
  platform:
    platforms: posix
    support: full
    description: Linux with systemd or BusyBox init; no Python needed there.
seealso:
- module: sallyport.iot.commit
- module: sallyport.iot.time_sync
author:
- The Sallyport authors (@sallyport)
"""

EXAMPLES = r"""
- name: Serve a certificate of the site's own CA
  sallyport.iot.tls:
    mode: device
    names: [gw1.plant.example]
    acme_directory: https://ca.plant.example/acme/directory
    acme_root: "{{ lookup('file', 'files/plant-root.pem') }}"
    acme_agree: true
"""

RETURN = r"""
certificate:
  description: The certificate that the device has now.
  returned: when it has one
  type: dict
  contains:
    names:
      description: What it is for.
      type: list
      elements: str
      sample: [gw1.plant.example]
    not_before:
      description: From when on it is valid.
      type: str
      sample: "2026-11-01T00:00:00+00:00"
    not_after:
      description: Until when.
      type: str
      sample: "2027-01-30T00:00:00+00:00"
    days_left:
      description: Whole days until then; negative once it has expired.
      type: int
      sample: 64
    issuer:
      description: Who issued it.
      type: str
      sample: CN=Plant CA
    serial:
      description: Its serial number in hexadecimal.
      type: str
      sample: 3f2a
    fingerprint:
      description: SHA-256 of the certificate.
      type: str
      sample: 9f86d081
    public_key:
      description: SHA-256 of its public key. Devices with the same one share their private key.
      type: str
      sample: 60303ae2
verdict:
  description: What the audit makes of it.
  returned: when the device was asked
  type: dict
  contains:
    state:
      description: C(ok), C(warning) or C(failing).
      type: str
      sample: ok
    message:
      description: Why.
      type: str
      sample: valid until 2027-01-30 00:00 UTC
key_made:
  description: Who made the private key, C(device), C(controller) or C(operator).
  returned: when a pair was delivered
  type: str
  sample: device
reason:
  description: Why a certificate was to be issued.
  returned: when one was
  type: str
  sample: there is none
shared_with:
  description:
  - Other devices of this play that have the same private key, as far as their tasks have ended; devices that are served at the
    same moment do not see each other. The audit compares all of them.
  returned: when the device has a certificate
  type: list
  elements: str
  sample: []
issue_seconds:
  description: How long the CA took, challenge and deployment included.
  returned: when certbot on the device got a certificate
  type: float
  sample: 3.1
state:
  description: C(unchanged), C(would_change), C(confirmed), C(reverted), C(refused) or C(lost), see M(sallyport.iot.commit).
  returned: always
  type: str
  sample: confirmed
files:
  description: What changed, file by file.
  returned: when the device was asked
  type: list
  elements: dict
  sample: [{dest: /etc/sallyport/tls/fullchain.pem, change: created}]
generation:
  description: The generation that C(playbooks/rollback.yml) can go back from.
  returned: when confirmed
  type: int
  sample: 3
exchanges:
  description: Round trips that this task cost.
  returned: always
  type: int
  sample: 2
msg:
  description: What was done, or why not and what to do.
  returned: always
  type: str
  sample: "nothing to do: files and live state are as wanted"
"""
