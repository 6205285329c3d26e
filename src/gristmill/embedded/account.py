"""The user that Postgres runs as. It refuses to run as root, so root becomes somebody else for it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True, slots=True)
class Account:
    """`ids` are the user and group id to change to; None: stay who we are."""

    name: str
    ids: tuple[int, int] | None = None

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Raises OSError if this user cannot execute it."""
        return subprocess.run(  # noqa: S603 - a fixed program
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, **self._options()
        )

    def spawn(
        self, command: Sequence[str], *, stdin: int, output: IO[bytes] | int
    ) -> "subprocess.Popen[bytes]":
        """In a session of its own: Ctrl-C in the terminal must not reach Postgres before work has drained."""
        return subprocess.Popen(  # noqa: S603 - a fixed program
            command, stdin=stdin, stdout=output, stderr=output, start_new_session=True, **self._options()
        )

    def own(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self.ids:
            os.chown(path, *self.ids)

    def _options(self) -> dict[str, Any]:
        changed = {"user": self.ids[0], "group": self.ids[1], "extra_groups": []} if self.ids else {}
        return {"env": _environment(os.environ), "cwd": "/", **changed}


def account_for(folder: Path) -> Account:
    """Ourselves; for root whoever owns `folder` already, else the one who called sudo, else nobody."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return Account("the current user")
    import pwd

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    owners = [
        entry.pw_name for entry in known.values() if folder.exists() and entry.pw_uid == folder.stat().st_uid
    ]
    for name in (*owners, os.environ.get("SUDO_USER", ""), "nobody"):
        if name in known and known[name].pw_uid != 0:
            return Account(name, (known[name].pw_uid, known[name].pw_gid))
    raise KeyError("this system has no user called nobody")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours without PGDATA, PGPORT and the like, which Postgres would obey; with fixed messages and zone."""
    kept = {name: value for name, value in ours.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}
