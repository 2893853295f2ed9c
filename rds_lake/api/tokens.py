"""Page tokens: where a list goes on, sealed together with what the list is of. Pure.

A token of the audit log holds a place only. Used with another table or another filter it would go on somewhere, without
an error; and DynamoDB refuses a place outside of the bounds that are asked for. So the token that callers get
carries a digest of both. It keeps mistakes out, not attackers: who may read the one table may read the other.
"""

import base64
import binascii
import hashlib
import json

DIGEST = 9
"""Bytes of the digest."""


def seal(place: str, *of: str | None) -> str:
    """A page token.

    Args:
        place: where the list goes on.
        of: what the list is of: everything that may not change from page to page.
    """
    return base64.urlsafe_b64encode(_digest(place, of) + place.encode()).decode().rstrip("=")


def unseal(token: str, *of: str | None) -> str:
    """The place of a page token.

    Raises:
        ValueError: it is no token, or one of another list.
    """
    try:
        held = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        place = held[DIGEST:].decode()
    except (binascii.Error, ValueError) as error:
        raise ValueError("this is no page token") from error
    if held[:DIGEST] != _digest(place, of):
        raise ValueError("this is a page token of another list")
    return place


def _digest(place: str, of: tuple[str | None, ...]) -> bytes:
    return hashlib.sha256(json.dumps([place, *of]).encode()).digest()[:DIGEST]
