"""`python -m benchmarks.corpus` fetches; `python -m benchmarks.corpus measure` measures what was fetched."""

import sys

from benchmarks.corpus import fetch, measure

if __name__ == "__main__":
    measure.main() if sys.argv[1:] == ["measure"] else fetch.main()
