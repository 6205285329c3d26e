"""`python -m benchmarks.stamped FILE …` is `gristmill …` that notes in FILE when Postgres had answered each of its COMMITs, in
Unix seconds: what happens between that and a start is the process's own, and no disk's (benchmarks/wake.py)."""

import sys
import time
from typing import Any

import asyncpg

from gristmill.__main__ import command


def main() -> None:
    really = asyncpg.Connection.execute
    name = sys.argv.pop(1)
    with open(name, "w", buffering=1) as stamps:

        async def execute(connection: Any, query: str, *given: Any, **more: Any) -> str:
            said = await really(connection, query, *given, **more)
            if query == "COMMIT":
                at = time.time()
                stamps.write(f"{at!r}\n")
            return said

        asyncpg.Connection.execute = execute  # type: ignore[method-assign]
        command()


if __name__ == "__main__":
    main()
