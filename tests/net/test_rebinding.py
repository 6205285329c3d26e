"""Names that move from a public address to a private one, with a real name server in a network of its own.

Where such a network is not allowed, the variant in this process (test_session.py) is all there is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ["unshare", "--net", "--mount", "--propagation", "private"]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """The words before a command that give it a network and mounts of its own."""
    words = ALONE if os.geteuid() == 0 else [*ALONE, "--map-root-user", "--user"]
    try:
        tried = subprocess.run([*words, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"there is no {error.filename} here")
    if tried.returncode:
        pytest.skip("this system allows nobody a network of his own (unshare --net --mount)")
    return words


def test_a_name_that_moves_leads_nobody_to_a_private_address(alone: list[str], tmp_path: Path) -> None:
    """Webhooks, document URLs, the http processor's session, MCP's client."""
    program = [sys.executable, str(Path(__file__).with_name("rebinding.py")), str(tmp_path)]
    ran = subprocess.run([*alone, *program], capture_output=True, text=True, check=False, timeout=110)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    reached = {address for address, count in told["hits"].items() if count}
    assert reached == {"93.184.216.34", "8.8.4.4"}
    assert told["asked"] >= told["calls"]  # each look is a new one
    assert sum(told["hits"].values()) < told["asked"]  # and some were refused
