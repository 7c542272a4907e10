"""What comes from the network and is not what the site signed is not installed, and the device says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.updates_site import DEVICES, GNUPG, PUBLIC, SERVER, Site, shown

INRELEASE = f"{PUBLIC}/dists/ring0/InRelease"
# The text of an index without its signature.
TEXT = f"gpg --homedir {GNUPG} --batch -q --decrypt {INRELEASE} 2>/dev/null >/root/text"


@pytest.fixture(scope="module")
def other_key(site: Site) -> str:
    site.sh(SERVER, "mkdir -m 700 /root/other; gpg --homedir /root/other --batch --pinentry-mode loopback --passphrase '' "
            "--quick-gen-key 'Sallyport repository' ed25519 sign never 2>/dev/null")  # fmt: skip
    return "/root/other"


@pytest.fixture
def mended(site: Site) -> Iterator[None]:
    """Whatever a test does to the index, it is signed anew afterwards, and the devices take it again."""
    yield
    site.sh(SERVER, "sallyport-repository sign")


def signed(home: str) -> str:
    return (
        f"gpg --homedir {home} --batch --yes --digest-algo SHA512 --clearsign --output {INRELEASE} /root/text"
    )


def assert_refused(site: Site, kind: str, word: str, before: dict[str, str]) -> None:
    for device, said in site.turn().items():
        assert said["result"] == "refused", shown({device: said})
        assert any(line.startswith(f"{kind} ") and word in line for line in said["refused"]), shown(
            {device: said}
        )
    assert site.versions("panel") == before


def test_a_tampered_package_is_refused_and_the_whole_one_installed(site: Site) -> None:
    site.publish(site.build("panel", "3.0"))
    pool = site.sh(SERVER, f"find {PUBLIC}/pool -name 'panel_3.0_*.deb'").strip()
    site.sh(SERVER, f"cp {pool} /root/whole; printf X | dd of={pool} bs=1 seek=300 conv=notrunc 2>/dev/null")
    assert_refused(site, "tampered", "panel 3.0", dict.fromkeys(DEVICES, "2.0"))
    site.sh(SERVER, f"cat /root/whole >{pool}")
    for device, said in site.turn().items():
        assert said["result"] == "ok", shown({device: said})
    assert site.versions("panel") == dict.fromkeys(DEVICES, "3.0")


def test_a_tampered_list_of_packages_is_refused(site: Site, mended: None) -> None:
    site.publish(site.build("panel", "4.0"))
    site.sh(
        SERVER,
        f"cd {PUBLIC}/dists/ring0/main; for a in binary-*; do echo '# X' >>$a/Packages; gzip -c $a/Packages >$a/Packages.gz; done",
    )
    assert_refused(site, "tampered", "", dict.fromkeys(DEVICES, "3.0"))


def test_a_tampered_index_is_refused(site: Site, mended: None) -> None:
    site.sh(SERVER, f"sed -i 's/^Label: .*/Label: Somebody/' {INRELEASE}")
    assert_refused(site, "signature", "", dict.fromkeys(DEVICES, "3.0"))


def test_an_expired_index_is_refused(site: Site, mended: None) -> None:
    past = "$(date -u -d '-1 hour' '+%a, %d %b %Y %H:%M:%S UTC')"
    site.sh(SERVER, f'{TEXT}; sed -i "s/^Valid-Until: .*/Valid-Until: {past}/" /root/text; {signed(GNUPG)}')
    assert_refused(site, "expired", "", dict.fromkeys(DEVICES, "3.0"))


def test_an_index_signed_with_another_key_is_refused(site: Site, mended: None, other_key: str) -> None:
    site.sh(SERVER, f"{TEXT}; {signed(other_key)}")
    assert_refused(site, "signature", "", dict.fromkeys(DEVICES, "3.0"))


def test_an_older_version_is_refused(site: Site) -> None:
    site.sh(
        SERVER,
        "reprepro --silent --basedir /srv/sallyport-repository --gnupghome /srv/sallyport-repository/gnupg remove ring0 panel",
    )
    site.publish(site.work / "panel_1.0_all.deb")
    assert_refused(
        site, "downgrade", "panel: 3.0 is installed, the repository offers 1.0", dict.fromkeys(DEVICES, "3.0")
    )


def test_once_all_is_well_again_nothing_is_refused_any_more(site: Site) -> None:
    site.publish(site.work / "panel_4.0_all.deb")
    for device, said in site.turn().items():
        assert said["result"] == "ok" and "refused" not in said, shown({device: said})
    assert site.versions("panel") == dict.fromkeys(DEVICES, "4.0")


def test_apt_that_would_believe_anybody_is_not_asked(site: Site) -> None:
    """A file of somebody's, since the role was there; it has the last word."""
    device = DEVICES[0]
    lists = "find /var/lib/apt/lists -type f -exec sha256sum {} + | sort"
    before = site.sh(device, lists)
    site.sh(device, "echo 'APT::Get::AllowUnauthenticated \"true\";' >/etc/apt/apt.conf")
    said = site.turn(device)[device]
    site.sh(device, "rm /etc/apt/apt.conf")
    assert said["result"] == "refused" and "AllowUnauthenticated" in said["refused"][0], shown(said)
    assert site.sh(device, lists) == before and "checked" in said
    assert site.turn(device)[device]["result"] != "refused"
