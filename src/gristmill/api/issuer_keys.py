"""The public keys of the token issuer, as it publishes them at a URL that the operator named (JWKS, RFC 7517)."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import jwt
import orjson

from gristmill.domain.errors import Unavailable
from gristmill.net.session import CallFailed, HttpSession

LIFE_SECONDS = 600.0  # then they are fetched again, beside the requests
MAX_AGE_SECONDS = 3600.0  # for so long they are believed while the issuer cannot be reached
FETCH_SECONDS = 10.0  # between two fetches, whatever tokens come: an unknown key id is no lever
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 256 * 1024
_MAX_KEYS = 100

logger = logging.getLogger(__name__)


class IssuerKeys:
    def __init__(self, url: str, algorithm: str) -> None:
        self._url = url
        self._algorithm = algorithm
        self._keys: Mapping[str | None, Any] = {}
        self._fetched_at = -MAX_AGE_SECONDS  # by the monotonic clock, as the next
        self._next_fetch = 0.0
        self._turn = asyncio.Lock()
        self._beside: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> Any | None:
        """The key of that id; without one, the only key that there is. None: the issuer has none.

        Raises Unavailable if its keys cannot be had.
        """
        age = time.monotonic() - self._fetched_at
        found = self._chosen(key_id) if age < MAX_AGE_SECONDS else None
        if found is None:
            await self._fetch()
            if time.monotonic() - self._fetched_at >= MAX_AGE_SECONDS:
                raise Unavailable("the keys of the token issuer cannot be had; try again soon")
            return self._chosen(key_id)
        if age > LIFE_SECONDS and (self._beside is None or self._beside.done()):
            self._beside = asyncio.create_task(self._fetch())
        return found

    def _chosen(self, key_id: str | None) -> Any | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _fetch(self) -> None:
        """Not more often than FETCH_SECONDS; who comes meanwhile waits for the one that is on its way."""
        async with self._turn:
            if time.monotonic() < self._next_fetch:
                return
            try:
                # The operator's own URL: an issuer inside the house is as good as one outside.
                async with HttpSession(allow_private=True) as http:
                    answer = await http.request(
                        "GET", self._url, timeout_seconds=_TIMEOUT_SECONDS, max_bytes=_MAX_BYTES
                    )
            except CallFailed as error:
                logger.warning("the keys of the token issuer cannot be fetched: %s", error.kind)
            else:
                self._take(answer.status, answer.body)
            finally:
                self._next_fetch = time.monotonic() + FETCH_SECONDS

    def _take(self, status: int, body: bytes) -> None:
        keys = _parsed(body, self._algorithm) if status == 200 else None
        if keys is None:
            logger.warning("the token issuer does not answer with keys", extra={"status": status})
            return
        self._keys, self._fetched_at = keys, time.monotonic()


def _parsed(body: bytes, algorithm: str) -> Mapping[str | None, Any] | None:
    """The keys that are for verifying signatures of this algorithm, by their id; None: this is no JWKS."""
    try:
        listed = orjson.loads(body)["keys"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(listed, list):
        return None
    usable = [one for one in listed[:_MAX_KEYS] if _is_for(one, algorithm)]
    found = {one.get("kid"): _key(one, algorithm) for one in usable}
    return {key_id: key for key_id, key in found.items() if key is not None}


def _is_for(one: Any, algorithm: str) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("kid"), str | None) or "d" in one:
        return False
    return one.get("use") in (None, "sig") and one.get("alg") in (None, algorithm)


def _key(one: Mapping[str, Any], algorithm: str) -> Any | None:
    """None for a key of another kind, or too short a one."""
    try:
        made = jwt.PyJWK.from_dict(dict(one), algorithm)
        return None if made.Algorithm.check_key_length(made.key) else made.key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
