"""Programs in place of `-m gristmill`: the same, with something in its surroundings changed before it begins."""

_MAIN = "from gristmill.__main__ import main\nmain()\n"


def skewed(seconds: float) -> tuple[str, str]:
    """Its clock is wrong by so much. Not the monotonic one, which no clock that is set can change."""
    return (
        "-c",
        f"""
import datetime, time
wrong_by, right, right_ns = {seconds}, time.time, time.time_ns
time.time = lambda: right() + wrong_by
time.time_ns = lambda: right_ns() + int(wrong_by * 1e9)
before = datetime.datetime
class Skewed(before):
    @classmethod
    def now(cls, tz=None):
        return before.fromtimestamp(time.time(), tz)
datetime.datetime = Skewed
{_MAIN}""",
    )


def impatient(schedule_seconds: list[float], record_seconds: float) -> tuple[str, str]:
    """Webhooks are sent again after these, and those of a sender that died after so many seconds and their timeout."""
    return (
        "-c",
        f"""
import gristmill.domain.deliveries, gristmill.worker.deliveries
gristmill.domain.deliveries.WEBHOOK_SCHEDULE_SECONDS = {tuple(schedule_seconds)}
gristmill.worker.deliveries.RECORD_SECONDS = {record_seconds}
{_MAIN}""",
    )
