"""Names of circuits: what a tenant's items call. A name says what is the same and nothing more: neither a key nor a URL."""

import re
from collections.abc import Callable

MODEL = "model"  # the model's endpoint of the settings; as a name: with the operator's key
_DIGEST_CHARACTERS = 32  # 128 bits
_NAME = re.compile(rf"{MODEL}|({MODEL}|url):[0-9a-f]{{{_DIGEST_CHARACTERS}}}")


def name(endpoint: str | None, own_key: str | None, fingerprint: Callable[[bytes], bytes]) -> str | None:
    """`endpoint`: MODEL, a URL, or None for items that call nobody; `own_key`: the batch's own for the model."""
    if endpoint is None:
        return None
    if endpoint != MODEL:
        return f"url:{_digest(endpoint, fingerprint)}"
    return MODEL if own_key is None else f"{MODEL}:{_digest(own_key, fingerprint)}"


def named(given: str, fingerprint: Callable[[bytes], bytes]) -> str | None:
    """The name by what an operator calls it: a name, or the URL; None: it is neither."""
    if given.startswith(("http://", "https://")):
        return name(given, None, fingerprint)
    return given if _NAME.fullmatch(given) else None


def of_model(name: str) -> bool:
    """Whether it is the model's endpoint, with whatever key: no other says what tokens a call used."""
    return name.partition(":")[0] == MODEL


def _digest(text: str, fingerprint: Callable[[bytes], bytes]) -> str:
    return fingerprint(text.encode()).hex()[:_DIGEST_CHARACTERS]
