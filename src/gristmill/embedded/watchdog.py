"""Stops Postgres when its owner is gone, even by kill -9: a shell waits for the end of a pipe we hold."""

import os
import subprocess
from pathlib import Path

from gristmill.embedded.account import Account

# $1 the postmaster, $2 its data, $3 the socket folder. Another process may have its number by then: check.
_SCRIPT = """
trap "" INT TERM HUP
read -r _
read -r current < "$2/postmaster.pid" && [ "$current" = "$1" ] && kill -INT "$1"
rm -rf "$3"
"""


class Watchdog:
    def __init__(self, account: Account, postmaster: int, data: Path, socket_folder: Path) -> None:
        reading, self._held = os.pipe()
        command = ["/bin/sh", "-c", _SCRIPT, "sh", str(postmaster), str(data), str(socket_folder)]
        self._shell = account.spawn(command, stdin=reading, output=subprocess.DEVNULL)
        os.close(reading)

    def dismiss(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._held)
