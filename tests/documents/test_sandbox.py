"""What a child cannot do any more, each tried in a real process that entered the sandbox."""

import json
import subprocess
import sys
from typing import Any

import pytest

from gristmill.documents import sandbox

_TRY = """
import json, os, resource, socket, subprocess, sys, threading
from gristmill.documents import sandbox
from gristmill.documents.limits import Limits
def tried(what):
    try:
        what()
    except BaseException as error:
        return type(error).__name__
    return "done"
def connect():
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
def memory():
    bytearray(2 * 1024**3)
def thread():
    done = []
    one = threading.Thread(target=lambda: done.append(1)); one.start(); one.join(); assert done
def write():
    with open(sys.argv[2], "wb") as file:
        file.write(b"x" * 10)
sandbox.enter(Limits())
print(json.dumps({
    "connect": tried(connect), "program": tried(lambda: subprocess.run(["/bin/true"])), "fork": tried(os.fork),
    "kill": tried(lambda: os.kill(os.getppid(), 0)), "memory": tried(memory), "write": tried(write),
    "thread": tried(thread), "nice": os.nice(0), "cpu": resource.getrlimit(resource.RLIMIT_CPU)[0],
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0], "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port, path = str(server.getsockname()[1]), str(tmp_path_factory.mktemp("sandbox") / "file")
        run = subprocess.run(
            [sys.executable, "-c", _TRY, port, path], capture_output=True, timeout=60, check=True
        )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@linux
@pytest.mark.parametrize("deed", ["connect", "program", "fork", "kill"])
def test_a_child_cannot_reach_the_network_or_other_processes(tried: dict[str, Any], deed: str) -> None:
    assert tried[deed] == "PermissionError"


@linux
def test_a_child_may_start_threads_which_the_pdf_library_needs(tried: dict[str, Any]) -> None:
    assert tried["thread"] == "done"


def test_a_child_cannot_take_much_memory_or_write_a_file(tried: dict[str, Any]) -> None:
    assert tried["memory"] == "MemoryError"
    assert tried["write"] == "OSError"


def test_a_child_has_low_priority_and_limits(tried: dict[str, Any]) -> None:
    assert tried["nice"] >= sandbox.NICE
    assert (tried["cpu"], tried["core"], tried["files"]) == (30, 0, 64)
