"""Proof of origin: the secret path, the signature, the allowed accounts, or a function of yours.

Pure: it reads no clock, no file and no environment. Every proof that is set up must hold.
WhatsAble documents no signature scheme and sends no timestamp, so a proof says where a body
comes from and never when it was sent; a repeated body is what the idempotency key is for.
"""

from __future__ import annotations

import base64
import difflib
import hmac
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import ConfigurationError, Refused

SIGNATURE_HEADER = "X-Webhook-Signature"
ALGORITHMS = ("sha1", "sha256", "sha384", "sha512")

Forms = Callable[[bytes, bytes], tuple[bytes, ...]]
Verify = Callable[[Mapping[str, str], bytes], bool]

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------- which headers a secret allows


def _hex(digest: bytes) -> tuple[bytes, ...]:
    text = digest.hex().encode()
    return text, text.upper()


def _base64(digest: bytes) -> tuple[bytes, ...]:
    text = base64.b64encode(digest)
    return text, text.rstrip(b"=")


def _base64url(digest: bytes) -> tuple[bytes, ...]:
    text = base64.urlsafe_b64encode(digest)
    return text, text.rstrip(b"=")


ENCODINGS = {"hex": _hex, "base64": _base64, "base64url": _base64url}


def _secret_itself(secret: bytes, body: bytes) -> tuple[bytes, ...]:
    return (secret,)


def _mac(algorithm: str, *encodings: str) -> Forms:
    prefix = f"{algorithm}=".encode()

    def forms(secret: bytes, body: bytes) -> tuple[bytes, ...]:
        digest = hmac.digest(secret, body, algorithm)
        plain = [form for name in encodings for form in ENCODINGS[name](digest)]
        return (*plain, *(prefix + form for form in plain))

    return forms


def _any_of(*schemes: Forms) -> Forms:
    def forms(secret: bytes, body: bytes) -> tuple[bytes, ...]:
        return tuple(form for scheme in schemes for form in scheme(secret, body))

    return forms


# Scheme name -> every header value that this secret and this body allow. Whole values are
# compared, nothing is decoded: odd base64 can then never mean the same as the right one.
SCHEMES: dict[str, Forms] = {
    # The vendor's example is too long for any HMAC, its prose says HMAC-SHA256: try both.
    "auto": _any_of(_secret_itself, _mac("sha256", *ENCODINGS), _mac("sha512", *ENCODINGS)),
    "secret": _secret_itself,
    **{f"hmac-{name}": _mac(name, *ENCODINGS) for name in ALGORITHMS},
    **{f"hmac-{name}-{code}": _mac(name, code) for name in ALGORITHMS for code in ENCODINGS},
}


# ---------------------------------------------------------------- the verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What a delivery has to prove, and the checks that say whether it does.

    Each check returns None or raises ``Refused``. ``ConfigurationError`` where a proof is set
    up so that it would prove nothing: an empty secret, an unknown scheme, a scheme without
    secrets.
    """

    signing_secrets: tuple[str, ...] = field(default=(), repr=False)  # any one may have signed
    scheme: str = "auto"
    path_secret: str | None = field(default=None, repr=False)
    accounts: tuple[str, ...] = ()
    function: Verify | None = None

    def __post_init__(self) -> None:
        _refuse_empty("signing secret", self.signing_secrets)
        _refuse_empty("account", self.accounts)
        if self.path_secret is not None:
            _refuse_empty("path secret", (self.path_secret,))
        if self.scheme not in SCHEMES:
            # Not repeated: who mixes up two settings has given the secret as the scheme.
            near = difflib.get_close_matches(self.scheme, SCHEMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SCHEMES)}"
            raise ConfigurationError(f"signature: there is no such scheme; {hint}")
        if self.scheme != "auto" and not self.signing_secrets:
            raise ConfigurationError(
                f"signature={self.scheme!r} needs a signing_secret, and none is set"
            )
        _refuse_async(self.function)

    @property
    def signed(self) -> bool:
        """Whether ``check_signature`` has anything to check."""
        return bool(self.signing_secrets) or self.function is not None

    @property
    def open_to_anyone(self) -> bool:
        """Whether a delivery has to prove nothing at all."""
        return not (self.signed or self.accounts or self.path_secret is not None)

    def check_path(self, secret_segment: str | None) -> None:
        """What follows the webhook's path is the path secret; otherwise ``Refused(404)``.

        None means that nothing follows. A missing and a wrong secret get the same answer.
        """
        if self.path_secret is None:
            fits = secret_segment is None
        else:
            fits = secret_segment is not None and _same(secret_segment, self.path_secret)
        if not fits:
            raise Refused(404, "nothing is received at this path")

    def check_signature(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """The signature fits the raw body, and your function says True; or ``Refused(401)``.

        ``headers`` are ASGI's pairs of bytes. A header that is there twice proves nothing.
        """
        if self.signing_secrets:
            self._check_header(headers, body)
        if self.function is not None:
            self._ask(self.function, headers, body)

    def check_account(self, user_id: str | None) -> None:
        """The payload's ``user_id`` is an allowed account; otherwise ``Refused(403)``.

        None stands for a delivery status, whose payload names no account at all: it passes
        only where the path, the signature or your function has proved its origin.
        """
        if not self.accounts:
            return
        if user_id is None:
            if not self.signed and self.path_secret is None:
                raise Refused(403, "a delivery status names no account, and nothing else proves it")
            return
        # Where accounts are the only proof, their ids are secrets: no early exit here either.
        fits = [_same(user_id, account) for account in self.accounts]
        if not any(fits):
            raise Refused(403, "the payload is not of an account that this receiver accepts")

    def _check_header(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        wanted = SIGNATURE_HEADER.lower().encode()
        found = [value for name, value in headers if name.lower() == wanted]
        if not found:
            raise Refused(401, f"the {SIGNATURE_HEADER} header is missing")
        if len(found) > 1:
            raise Refused(401, f"the {SIGNATURE_HEADER} header is there more than once")
        given = found[0]
        forms = SCHEMES[self.scheme]
        # The lists are on purpose: every secret and every form is compared, whatever fits.
        # compare_digest takes the time of its second argument, so a huge header costs nothing.
        fits = [
            hmac.compare_digest(given, form)
            for secret in self.signing_secrets
            for form in forms(_bytes(secret), body)
        ]
        if not (any(fits) and given.isascii()):
            raise Refused(401, "the signature does not fit the body")

    def _ask(self, function: Verify, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        answer: object
        try:
            answer = function(_as_mapping(headers), body)
        except Exception as error:  # the user's code: anything may come out
            # The error's text may repeat a secret or the body; its type and place do not.
            logger.warning("the verify function raised %s %s", type(error).__name__, _place(error))
            answer = False
        if inspect.iscoroutine(answer):
            answer.close()  # or Python warns that it was never awaited
        if not isinstance(answer, bool):
            logger.warning(
                "the verify function returned %s; only True passes", type(answer).__name__
            )
        if answer is not True:
            raise Refused(401, "the delivery was not verified")


def _bytes(text: str) -> bytes:
    # A lone surrogate in a path or a payload must be compared, not raise.
    return text.encode("utf-8", "surrogatepass")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(_bytes(given), _bytes(wanted))


def _as_mapping(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    # Joined as RFC 9110, 5.3 has it: a doubled signature then equals no single one.
    mapping: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        mapping[name] = f"{mapping[name]}, {value}" if name in mapping else value
    return mapping


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "somewhere"
    return f"at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _refuse_empty(what: str, values: tuple[str, ...]) -> None:
    # A str would be read letter by letter, and each letter would be a secret.
    if not isinstance(values, tuple):
        raise ConfigurationError(f"give each {what} as an item of a tuple")
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise ConfigurationError(f"a {what} is empty or no text; leave it out to go without one")


def _refuse_async(function: object) -> None:
    if function is None:
        return
    if not callable(function):
        raise ConfigurationError("the verify function cannot be called")
    call = getattr(function, "__call__", None)  # noqa: B004 - an object's async __call__ counts
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        raise ConfigurationError("the verify function must be a plain def, not async")
