"""Which deliveries are one event: the key nominates, the fingerprint decides.

The vendor recommends ``phone_number`` + ``user_last_message_time``. Taken alone that loses
messages: it has whole seconds (two photos sent at once share it), an outgoing message leaves
it where it was, and it does not name the account. So the same key with another fingerprint is
another event. Labels, notes and the other side's text are in neither: they may be edited
between a delivery and its redelivery.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .payload import Payload, Status


class Identity(NamedTuple):
    """The name of an event: 16 bytes of key and 16 of fingerprint.

    The key starts with the payload's own time, so that keys of one hour lie together in the
    index: twice the insert rate of a random key, and never taken from the clock of arrival,
    or a redelivery would have another key.
    """

    key: bytes
    fingerprint: bytes


#: A function of the user's own: what it answers (text or bytes) is the whole identity.
IdentityFunction = Callable[[Payload | Status, bytes], str | bytes]
Rule = Literal["fingerprint", "documented"] | IdentityFunction


# What goes into a hash has the length of each part but the last in front, or is a number:
# "1"+"23" is not "12"+"3". Written out for each place, because each delivery pays for it.


def _key(seconds: int, kind: str, account: str, name: str) -> bytes:
    # All of the time is in the hash too: the prefix has 32 bits of it only.
    text = f"{seconds} {kind} {len(account)}:{account}{name}".encode("utf-8", "surrogatepass")
    return (seconds & 0xFFFFFFFF).to_bytes(4, "big") + blake2b(text, digest_size=12).digest()


def _fingerprint(type_: str, text: str, file: str, newest: int | None) -> bytes:
    whole = f"{newest} {len(type_)}:{type_}{len(file)}:{file}{text}"
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def file_name(url: str | None) -> str:
    """The last segment of a URL's path: what stays when a signed path is signed anew."""
    if not url:
        return ""
    try:
        return urlsplit(url).path.rsplit("/", 1)[-1]
    except ValueError:  # such as an unclosed IPv6 bracket: still a name, the same each time
        return url.partition("?")[0].rsplit("/", 1)[-1]


def by_fingerprint(payload: Payload | Status, body: bytes) -> Identity:
    """The rule of this library; a message that does not say when it was sent is its own body."""
    if isinstance(payload, Status):
        seconds = int(payload.timestamp.timestamp()) if payload.timestamp else 0
        return Identity(
            _key(max(seconds, 0), "status", "", payload.message_id),
            _fingerprint("status", payload.status, "", None),
        )
    if payload.incoming_message:
        side, text, seconds = "user", payload.last_message_of_user, payload.user_last_message_time
    else:
        side, text, seconds = "bot", payload.last_message_of_bot, payload.bot_last_message_time
    key = _key(seconds, side, payload.user_id, payload.phone_number)
    if not seconds or not payload.user_id:
        return Identity(key, blake2b(body, digest_size=16).digest())
    newest = payload.newest(side)
    return Identity(
        key,
        _fingerprint(payload.message_type, text, file_name(payload.attachment_url), newest),
    )


def documented(payload: Payload | Status, body: bytes) -> Identity:
    """The vendor's rule to the letter, with the vendor's losses: see ``docs/promises.md``."""
    if isinstance(payload, Status):
        return by_fingerprint(payload, body)
    seconds = payload.user_last_message_time
    return Identity(_key(seconds, "documented", "", payload.phone_number), bytes(16))


def of_body(body: bytes) -> Identity:
    """The identity of what could not be read: the bytes themselves."""
    return Identity(_key(0, "body", "", ""), blake2b(body, digest_size=16).digest())


def rule(name: Rule) -> Callable[[Payload | Status, bytes], Identity]:
    """The function behind ``idempotency=``: a name, or a function of the user's."""
    if name == "fingerprint":
        return by_fingerprint
    if name == "documented":
        return documented
    if not callable(name):
        raise ConfigurationError(
            f"idempotency={name!r} is no rule: say 'fingerprint', 'documented', or give a "
            "function of (payload, body)"
        )
    function = name

    def users(payload: Payload | Status, body: bytes) -> Identity:
        answer = function(payload, body)
        raw = answer.encode("utf-8", "surrogatepass") if isinstance(answer, str) else answer
        # No time in front: nothing but the function's answer may tell two events apart.
        return Identity(bytes(4) + blake2b(raw, digest_size=12).digest(), bytes(16))

    return users
