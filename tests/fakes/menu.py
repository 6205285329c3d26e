"""What an endpoint can do wrong, and what has to come of the item that it happens to (design 4, promise 10)."""

from typing import NamedTuple


class Expected(NamedTuple):
    """`type` None: it succeeds all the same."""

    type: str | None
    final: bool = False  # at the first attempt; else after the last
    waits: bool = False  # uses up no attempt


_FINAL = {
    "status:400": "upstream_rejected",
    "status:401": "upstream_unauthorized",
    "status:402": "upstream_payment_required",
    "status:403": "upstream_unauthorized",
    "status:404": "upstream_not_found",
    "status:405": "upstream_not_found",
    "status:406": "upstream_rejected",
    "status:410": "upstream_rejected",
    "status:413": "upstream_too_long",
    "status:415": "upstream_rejected",
    "status:422": "upstream_rejected",
    "status:451": "upstream_rejected",
}
_TRIED_AGAIN = {
    "status:302": "upstream_redirect",
    "status:408": "upstream_timeout",
    "status:409": "upstream_conflict",
    "status:500": "upstream_error",
    "status:501": "upstream_error",
    "status:502": "upstream_error",
    "status:504": "upstream_timeout",
    "status:507": "upstream_error",
    "status:529": "upstream_overloaded",
    "redirect": "upstream_redirect",  # to an address of cloud metadata
    "hang": "upstream_timeout",
    "hang_in_body": "upstream_timeout",
    "drip": "upstream_timeout",
    "reset": "upstream_connection_lost",
    "reset_in_body": "upstream_connection_lost",
    "close": "upstream_connection_lost",
    "short_body": "upstream_connection_lost",
    "cut_chunks": "upstream_connection_lost",
    "bad_chunks": "upstream_connection_lost",
    "bad_chunks_later": "upstream_connection_lost",
    "not_http": "upstream_connection_lost",
    "endless_headers": "upstream_connection_lost",
    "html": "upstream_bad_answer",
    "html_502": "upstream_error",
    "no_content": "upstream_bad_answer",
    "wrong_json": "upstream_bad_answer",
    "empty_body": "upstream_bad_answer",
    "json_array": "upstream_bad_answer",
    "invalid_utf8": "upstream_bad_answer",
    "no_choices": "upstream_bad_answer",
    "empty_choices": "upstream_bad_answer",
    "error_inside": "upstream_bad_answer",
    "deep": "upstream_bad_answer",
    "huge": "upstream_answer_too_large",  # 50 MB
    "huge_declared": "upstream_timeout",
    "huge_error": "upstream_error",
    "bomb": "upstream_answer_too_large",
    "error_hangs": "upstream_error",
}
MENU: dict[str, Expected] = {
    **{fault: Expected(kind, final=True) for fault, kind in _FINAL.items()},
    **{fault: Expected(kind) for fault, kind in _TRIED_AGAIN.items()},
    "status:429": Expected("upstream_rate_limited", waits=True),
    "status:503": Expected("upstream_unavailable", waits=True),
    "nul": Expected(None),
    "half_emoji": Expected(None),
    "no_usage": Expected(None),
    "odd_usage": Expected(None),
}
