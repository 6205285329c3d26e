"""Schemathesis, with all of its checks, against the served OpenAPI document of a real server: `make fuzz`."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from command import Command

HERE = Path(__file__).parent
KEY = "gm_a-key-for-schemathesis-and-nobody-else"


@pytest.fixture
def program(pytestconfig: pytest.Config) -> str:
    found: str | None = pytestconfig.getoption("schemathesis")
    if found is None:
        pytest.skip("make fuzz runs Schemathesis, in an environment of its own")
    return str(Path(found).absolute())


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("headers", [{"x-api-key": KEY}, {}], ids=["with a key", "without a key"])
def test_schemathesis_finds_nothing(
    own_database_url: str,
    tmp_path: Path,
    program: str,
    pytestconfig: pytest.Config,
    headers: dict[str, str],
) -> None:
    command = Command(
        {
            "GRISTMILL_DATABASE_URL": own_database_url,
            "GRISTMILL_DATA_DIR": str(tmp_path / "data"),
            "GRISTMILL_SECRET_KEY": "a secret key for tests, long enough",
            "GRISTMILL_API_KEY": KEY,
            "GRISTMILL_LOG_FORMAT": "json",
            "GRISTMILL_LOG_LEVEL": "debug",
        },
        log=tmp_path / "log",
    )
    seconds, seed = pytestconfig.getoption("fuzz_seconds"), pytestconfig.getoption("first_seed")
    with command.serve() as server:
        arguments = [
            argument for name, value in headers.items() for argument in ("--header", f"{name}: {value}")
        ]
        ran = subprocess.run(
            [program, "--config-file", str(HERE / "schemathesis.toml"), "run", f"{server.url}/openapi.json",
             "--checks", "all", "--max-time", str(seconds), "--seed", str(seed), *arguments],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "refusals"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert server.process.poll() is None
    print(f"\nseed {seed}, {seconds} s: {_cases(ran.stdout)}; {_answers(tmp_path / 'log')}")
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]


def _cases(said: str) -> str:
    return next((line.strip() for line in said.splitlines() if " generated, " in line), "no cases")


def _answers(log: Path) -> str:
    """How many of each status; fails where one is a 5xx, or where the log has a traceback."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    statuses = Counter(line["status"] for line in lines if line["message"] == "request")
    assert [line for line in lines if "exception" in line or line["level"] in {"error", "critical"}] == []
    assert [status for status in statuses if status >= 500] == []
    assert sum(statuses.values()) > 100
    return ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
