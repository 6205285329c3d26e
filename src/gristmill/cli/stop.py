"""Being asked to stop: the first SIGTERM or Ctrl-C lets work in flight finish, the second does not wait."""

import asyncio
import signal


class Stop:
    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()
