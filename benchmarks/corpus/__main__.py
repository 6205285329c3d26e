"""`python -m benchmarks.corpus` fetches; `measure` measures what was fetched, `run` takes it through a real server."""

import sys

from benchmarks.corpus import fetch, measure, run

if __name__ == "__main__":
    {"measure": measure.main, "run": run.main}.get("".join(sys.argv[1:]), fetch.main)()
