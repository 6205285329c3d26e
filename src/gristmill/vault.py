"""What hangs on the one secret key: encryption at rest, digests of API keys, signatures of cursors.

Each use has a key of its own, derived by HKDF-SHA-256 (RFC 5869), so that none can stand in for another.
"""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_KEY_BYTES = 16
SIGNATURE_BYTES = 16

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES


class VaultError(Exception):
    """The ciphertext is damaged, bound to something else, or made under another key. Names no secret."""


class Vault:
    """Ciphertext: version (1 byte), key id (4), nonce (12), AES-256-GCM ciphertext with its tag (16).

    What a ciphertext is bound to (`webhook:<batch id>`, …) is authenticated with it: copied into another row
    it does not open. Nonces are random, which is safe for 2^32 secrets under one key (NIST SP 800-38D, 8.3).
    """

    def __init__(self, secret_key: bytes) -> None:
        if len(secret_key) < MIN_KEY_BYTES:
            raise ValueError(f"the secret key must be at least {MIN_KEY_BYTES} bytes long")
        self._cipher = AESGCM(_derive(secret_key, b"encrypt"))
        self._pepper = _derive(secret_key, b"digest")
        self._signing_key = _derive(secret_key, b"sign")
        self._fingerprint_key = _derive(secret_key, b"fingerprint")
        self._header = _VERSION + _derive(secret_key, b"key id")[:_KEY_ID_BYTES]

    def encrypt(self, plaintext: bytes, bound_to: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return self._header + nonce + self._cipher.encrypt(nonce, plaintext, self._header + bound_to.encode())

    def decrypt(self, ciphertext: bytes, bound_to: str) -> bytes:
        """The plaintext of `encrypt(plaintext, bound_to)`; raises VaultError for anything else."""
        header, rest = ciphertext[:_HEADER_BYTES], ciphertext[_HEADER_BYTES:]
        if header != self._header:
            raise VaultError("encrypted under another secret key")
        try:
            return self._cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + bound_to.encode())
        except (InvalidTag, ValueError) as error:
            raise VaultError("damaged, or bound to something else") from error

    def digest(self, api_key: str) -> bytes:
        """What is stored of an API key: HMAC-SHA-256. Keys have 256 random bits: no slow hash needed."""
        return hmac.digest(self._pepper, api_key.encode(), hashlib.sha256)

    def fingerprint(self, body: bytes) -> bytes:
        """What is stored of a body, to know it again: HMAC-SHA-256, as a body may hold a secret that can be guessed."""
        return hmac.digest(self._fingerprint_key, body, hashlib.sha256)

    def sign(self, payload: bytes) -> bytes:
        """16 bytes that only the holder of the secret key can make for this payload."""
        return hmac.digest(self._signing_key, payload, hashlib.sha256)[:SIGNATURE_BYTES]

    def verify(self, payload: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(payload), signature)


def _derive(secret_key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"gristmill 1 " + purpose).derive(secret_key)
