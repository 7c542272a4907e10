"""Images of the devices, made from Debian's packages alone and kept by a hash of what makes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.fleet import LAB, Fleet, Image, LabError, digest
from lab.podman import podman, run_options, succeeds

REPOSITORY = "localhost/sallyport-lab"
Say = Callable[[str], None]
_EXTRACT = (
    'mkdir "$1/extra" && cd "$1/extra" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download {packages}'
    ' && for file in *.deb; do dpkg-deb -x "$file" .; done'
)


def reference(fleet: Fleet, image: Image) -> str:
    """The name of an image in podman's store; it changes with the recipe."""
    recipe = "".join(_contents(image.folder)) + "".join(_contents(LAB / "images" / "common"))
    accounts = _accounts(image)
    return f"{REPOSITORY}-{image.name}:{digest(_base(fleet, image), recipe, accounts)}"


def ensure(fleet: Fleet, images: list[Image], say: Say) -> None:
    """Make those images that are not there yet, two at a time. LabError with the log's end when one fails."""
    wanted = {image.name: image for image in images}
    for image in images:
        parent = image.parent
        while parent:
            wanted[parent] = fleet.images[parent]
            parent = fleet.images[parent].parent
    roots = [image for image in wanted.values() if not image.parent]
    rest = [image for image in wanted.values() if image.parent]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda image: _ensure(fleet, image, say), roots))
    for image in rest:
        _ensure(fleet, image, say)


def _base(fleet: Fleet, image: Image) -> str:
    if image.parent:
        return reference(fleet, fleet.images[image.parent])
    packages = (" ".join(image.packages), " ".join(image.extract))
    return f"{REPOSITORY}-packages:{image.name}-{digest(image.suite, *packages)}"


def _ensure(fleet: Fleet, image: Image, say: Say) -> None:
    target, base = reference(fleet, image), _base(fleet, image)
    if succeeds("image", "exists", target):
        return
    with _lock(image.name):
        if not image.parent and not succeeds("image", "exists", base):
            _packages(fleet, image, base, say)
        if not succeeds("image", "exists", target):
            started = time.monotonic()
            _build(image, base, target)
            say(f"image {image.name}: made in {time.monotonic() - started:.0f} s")


def _packages(fleet: Fleet, image: Image, base: str, say: Say) -> None:
    """The root file system of an image's packages, imported under the name `base`."""
    say(f"image {image.name}: installing {len(image.packages)} packages of Debian {image.suite}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sallyport-image-") as folder:
        archive = Path(folder) / "rootfs.tar"
        log = ""
        for mirror in mirrors():
            command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(image.packages)}"]
            command += [
                "--aptopt=Acquire::Check-Valid-Until false"
            ]  # an old suite's lists are no longer signed anew
            command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
            command += [
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            ]
            if image.extract:
                command.append(f"--customize-hook={_EXTRACT.format(packages=' '.join(image.extract))}")
            command += [image.suite, str(archive), *([mirror] if mirror else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            log += done.stderr
        else:
            raise LabError(
                f"image {image.name}: mmdebstrap failed with every mirror; its last words:\n{_end(log)}"
            )
        podman("import", str(archive), base)
    say(f"image {image.name}: packages installed in {time.monotonic() - started:.0f} s")


def mirrors() -> list[str]:
    """Where to get Debian packages, best first; the last, "", is mmdebstrap's own default.

    SALLYPORT_DEBIAN_MIRROR is for suites that have moved elsewhere. Else it is where this machine gets its own.
    """
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False
    ).stdout
    own = [uri for uri in listed.split() if uri.rstrip("/").endswith("/debian")]
    return list(dict.fromkeys([*filter(None, [os.environ.get("SALLYPORT_DEBIAN_MIRROR")]), *own, ""]))


def _build(image: Image, base: str, target: str) -> None:
    run_options()  # says what is missing before a build fails less clearly
    command = ["podman", "build", "--isolation=chroot", "--pull=never", "--layers=false", "--format=docker"]
    command += [f"--build-arg=BASE={base}", f"--build-arg=ACCOUNTS={_accounts(image)}"]
    command += [f"--file={image.folder / 'Containerfile'}", f"--tag={target}", str(LAB / "images")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"image {image.name}: the build failed:\n{_end(done.stdout + done.stderr)}")


def _accounts(image: Image) -> str:
    return " ".join(f"{name}:{password}" for name, password in image.accounts.items())


def _contents(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            mode = path.stat().st_mode & 0o111
            yield f"{path.relative_to(folder)}\0{mode}\0{path.read_text(encoding='utf-8')}\0"


def _end(log: str) -> str:
    return "\n".join(log.strip().splitlines()[-25:])


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """One builder of an image at a time on this machine: labs that start side by side share the result."""
    with (Path("/run/lock") / f"sallyport-lab-{name}").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
