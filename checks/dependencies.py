"""Known vulnerabilities among the dependencies, as pip-audit finds them: `make check`, `make audit`.

It reads requirements.txt, every version and hash as it is installed, and asks two services over the network. Where neither
answers, nothing was audited, and that is what it says: the status is 0 with `--offline-ok` (`make check`), 2 without.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PROGRAM = ".tools/bin/pip-audit"
REQUIREMENTS = ("requirements.txt", "requirements-tools.txt")
SERVICES = ("osv", "pypi")
SECONDS = 120
# Vulnerabilities that do not concern us: its id, and the reason. None today.
IGNORED: dict[str, str] = {}


@dataclass(frozen=True)
class Audit:
    """What one service said of one file."""

    audited: int
    skipped: int
    found: list[str]


def main() -> int:
    status = 0
    for requirements in REQUIREMENTS:
        audits = (audit(requirements, service) for service in SERVICES)
        done = next((one for one in audits if one is not None and one.audited), None)
        if done is None:
            print(f"{requirements}: NOT AUDITED, no service of vulnerabilities could be reached")
            status = max(status, 0 if "--offline-ok" in sys.argv else 2)
        else:
            print(
                f"{requirements}: {done.audited} audited, {done.skipped} unknown there, {len(done.found)} vulnerable"
            )
            print(*(f"  {one}" for one in done.found), sep="\n", end="\n" if done.found else "")
            status = max(status, 1 if done.found else 0)
    return status


def audit(requirements: str, service: str) -> Audit | None:
    """None: the service did not answer."""
    ignored = [argument for one in IGNORED for argument in ("--ignore-vuln", one)]
    command = [
        PROGRAM,
        "--requirement",
        requirements,
        "--require-hashes",
        "--disable-pip",
        "--format",
        "json",
    ]
    try:
        ran = subprocess.run(
            [*command, "--vulnerability-service", service, "--timeout", "10", "--progress-spinner", "off", *ignored],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        return read(json.loads(ran.stdout)["dependencies"])
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None


def read(dependencies: Iterable[dict[str, Any]]) -> Audit:
    known = [one for one in dependencies if "skip_reason" not in one]
    found = [
        f"{one['name']} {one['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for one in known
        for fault in one["vulns"]
    ]
    return Audit(len(known), len(list(dependencies)) - len(known), found)


if __name__ == "__main__":
    sys.exit(main())
