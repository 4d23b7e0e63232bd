"""Signatures of webhooks, by the Standard Webhooks specification 1.0.0: HMAC-SHA-256 over `id.timestamp.body`, base64, version v1."""

import base64
import binascii
import hashlib
import hmac

from serve.errors import ConfigurationError

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


def key_of(secret: str) -> bytes:
    """The bytes of a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`. Raises ConfigurationError, without the secret in its text."""
    how = f"want {PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes in base64, as `openssl rand -base64 32` makes them"
    if not secret.startswith(PREFIX):
        raise ConfigurationError(f"the secret of a webhook does not begin with {PREFIX}; {how}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(f"the secret of a webhook is not base64: {error}; {how}") from error
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ConfigurationError(f"the secret of a webhook has {len(key)} bytes; {how}")
    return key


def signature_headers(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers. timestamp_s: of this attempt, since the epoch."""
    signed = b".".join([message_id.encode(), str(timestamp_s).encode(), body])
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": f"v1,{signature}"}


__all__ = ["key_of", "signature_headers"]
