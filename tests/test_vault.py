import itertools

import pytest

from gristmill.vault import Vault, VaultError

KEY = b"0123456789abcdef0123456789abcdef"
vault = Vault(KEY)


@pytest.mark.parametrize("plaintext", [b"", b"whsec_abc", "sécret-🔑".encode(), bytes(100_000)])
def test_what_was_encrypted_comes_back(plaintext):
    assert vault.decrypt(vault.encrypt(plaintext, "webhook:1"), "webhook:1") == plaintext


def test_another_process_with_the_same_key_reads_it():
    assert Vault(KEY).decrypt(vault.encrypt(b"hush", "webhook:1"), "webhook:1") == b"hush"


def test_the_ciphertext_shows_neither_the_secret_nor_that_two_secrets_are_the_same():
    first, second = (vault.encrypt(b"the same secret", "webhook:1") for _ in range(2))
    assert first != second
    assert b"secret" not in first


def test_a_ciphertext_copied_into_another_row_does_not_open():
    with pytest.raises(VaultError):
        vault.decrypt(vault.encrypt(b"hush", "webhook:1"), "webhook:2")


def test_under_another_secret_key_it_says_so_without_the_secret():
    with pytest.raises(VaultError, match="another secret key") as caught:
        Vault(b"another key of sixteen").decrypt(vault.encrypt(b"hush", "webhook:1"), "webhook:1")
    assert "hush" not in str(caught.value)


def test_a_changed_bit_anywhere_is_seen():
    ciphertext = vault.encrypt(b"hush", "webhook:1")
    for index in range(len(ciphertext)):
        changed = bytearray(ciphertext)
        changed[index] ^= 1
        with pytest.raises(VaultError):
            vault.decrypt(bytes(changed), "webhook:1")


def test_a_cut_off_ciphertext_is_refused_at_every_length():
    ciphertext = vault.encrypt(b"hush", "webhook:1")
    for length in range(len(ciphertext)):
        with pytest.raises(VaultError):
            vault.decrypt(ciphertext[:length], "webhook:1")


def test_a_digest_is_stable_peppered_and_no_plain_hash():
    assert vault.digest("gm_abc") == Vault(KEY).digest("gm_abc")
    assert vault.digest("gm_abc") != Vault(b"another key of sixteen").digest("gm_abc")
    assert vault.digest("gm_abc") != vault.digest("gm_abd")
    assert len(vault.digest("gm_abc")) == 32


def test_a_signature_verifies_for_its_payload_and_key_only():
    signature = vault.sign(b"cursor")
    assert vault.verify(b"cursor", signature)
    assert not vault.verify(b"cursor2", signature)
    assert not vault.verify(b"cursor", signature[:-1])
    assert not vault.verify(b"cursor", b"")
    assert not Vault(b"another key of sixteen").verify(b"cursor", signature)


def test_each_use_has_a_key_of_its_own():
    made = [vault.digest("same"), vault.sign(b"same"), vault.encrypt(b"same", "same")]
    for one, other in itertools.permutations(made, 2):
        assert one[:16] != other[:16]


def test_a_short_secret_key_is_refused():
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Vault(b"short")
