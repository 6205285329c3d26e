"""Runs in the environment of markitdown: reads each file named on standard input in a process of its own, as we do, and
writes a line of JSON for each. Imports first, so that they count for nobody."""

import contextlib
import json
import os
import sys
import time

from markitdown import MarkItDown

_SECONDS = 120


def main() -> None:
    reader = MarkItDown(enable_plugins=False)
    for line in sys.stdin:
        path = line.strip()
        reading, writing = os.pipe()
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            _live(reader, path, reading, writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            text = pipe.read()
        _, status, used = os.wait4(process, 0)
        print(
            json.dumps(
                {
                    "ok": os.waitstatus_to_exitcode(status) == 0,
                    "text": text,
                    "cpu": used.ru_utime + used.ru_stime,
                    "wall": time.monotonic() - started,
                    "peak": used.ru_maxrss * 1024,
                }
            ),
            flush=True,
        )


def _live(reader: MarkItDown, path: str, reading: int, writing: int) -> None:
    import signal

    os.close(reading)
    signal.alarm(_SECONDS)
    status = 1
    with contextlib.suppress(BaseException):
        text = reader.convert_local(path).markdown
        with open(writing, "w", encoding="utf-8", errors="replace") as pipe:
            pipe.write(text)
        status = 0
    os._exit(status)


if __name__ == "__main__":
    main()
