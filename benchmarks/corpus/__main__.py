"""`python -m benchmarks.corpus` fetches; with `measure` it measures what was fetched, with `run` takes it through a real server."""

import sys

from benchmarks.corpus import fetch, measure, run

if __name__ == "__main__":
    {"measure": measure.main, "run": run.main}.get("".join(sys.argv[1:]), fetch.main)()
