"""The signed cursor of the next page: `<key id>.<expiry and id>.<signature>`."""

import base64
import binascii
import hmac
import struct
import time
from uuid import UUID

from credentials import Credentials

LIFETIME = 24 * 60 * 60


class CursorError(Exception):
    """A cursor is not one of ours, or has expired."""


def seal_cursor(held: Credentials, id: UUID) -> str:
    """Signs an id and the time at which it expires."""
    payload = struct.pack(">Q", int(time.time()) + LIFETIME) + id.bytes
    return f"{held.signing.id}.{encode(payload)}.{encode(sign(held.signing.key, payload))}"


def open_cursor(held: Credentials, cursor: str) -> UUID:
    """Verifies a cursor with the current key or the one before it."""
    try:
        key_id, payload, signature = cursor.split(".")
        payload, signature = decode(payload), decode(signature)
    except (ValueError, binascii.Error):
        raise CursorError from None
    for key in (held.signing, held.previous_key):
        if key and key.id == key_id and hmac.compare_digest(signature, sign(key.key, payload)):
            expiry, id = struct.unpack(">Q16s", payload)
            if time.time() <= expiry:
                return UUID(bytes=id)
    raise CursorError


def sign(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, b"cursor\x00" + payload, "sha256")


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
