"""Files of Debian packages: as installed, from a given ``.deb``, or from one that apt downloads. Needs no root."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from bench.common.errors import DataError, InputError
from bench.common.files import replacing
from bench.common.paths import cache_root
from bench.data.sources import Progress


def package_files(package: str, inner: list[str], deb: str | None, progress: Progress) -> list[Path]:
    """Paths of files that ``package`` holds (``inner``: absolute paths as installed).

    Searched as installed on this system, then in ``deb``, then in a package that `apt-get download` fetches into the
    cache folder. Raises InputError that says what to do, DataError for a damaged package.
    """
    if deb is None and all(Path(path).is_file() for path in inner):
        return [Path(path) for path in inner]
    folder = cache_root() / "raw" / package
    targets = [folder / Path(path).name for path in inner]
    if deb is None and all(target.is_file() for target in targets):
        return targets
    source = Path(deb) if deb is not None else _download(package, folder, progress)
    if not source.is_file():
        raise InputError(f"Debian package {source} does not exist")
    progress(f"unpacking {source.name}")
    with tarfile.open(fileobj=io.BytesIO(_data_tar(source))) as archive:
        for path, target in zip(inner, targets, strict=True):
            try:
                member = archive.extractfile("." + path)
            except KeyError:
                member = None
            if member is None:
                raise DataError(source, None, f"no file {path} in it", f"Debian package {package}")
            with replacing(target) as file:
                shutil.copyfileobj(member, file)
    return targets


def _download(package: str, folder: Path, progress: Progress) -> Path:
    remedy = f"get the package's .deb from packages.debian.org/{package} and give its path as the parameter `deb`"
    if shutil.which("apt-get") is None:
        raise InputError(f"no apt-get on this system; {remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"apt-get download {package}")
    done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode != 0 or not found:
        raise InputError(f"`apt-get download {package}` failed ({done.stderr.strip()[-200:]}); {remedy}")
    return found[-1]


def _data_tar(deb: Path) -> bytes:
    """The member ``data.tar.*`` of a .deb, which is an ar archive of at least three members (deb(5))."""
    with deb.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise DataError(deb, None, "no ar archive", "a Debian package")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
            if not size.isdigit():
                break
            if name in ("data.tar.xz", "data.tar.gz", "data.tar.bz2", "data.tar"):
                content = file.read(int(size))
                if len(content) == int(size):
                    return content
                break
            file.seek(int(size) + int(size) % 2, 1)
    raise DataError(deb, None, "no whole data.tar (xz, gz, bz2) in it", "a complete Debian package")
