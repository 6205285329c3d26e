"""The command, on a database of its own."""

from pathlib import Path

import pytest

from command import Command


@pytest.fixture
def gristmill(data_dir: Path) -> Command:
    """On an embedded Postgres of its own."""
    return Command({"GRISTMILL_DATA_DIR": str(data_dir)})


@pytest.fixture
def gristmill_on(own_database_url: str, tmp_path: Path) -> Command:
    """On a database of its own of the tests' server, as if it were somebody else's Postgres."""
    return Command(
        {
            "GRISTMILL_DATABASE_URL": own_database_url,
            "GRISTMILL_SECRET_KEY": "a secret key for tests, long enough",
            "GRISTMILL_DATA_DIR": str(tmp_path),
        }
    )
