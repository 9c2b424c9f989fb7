"""What proves where a delivery comes from, and what does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsable_receiver.errors import ConfigurationError, Refused
from whatsable_receiver.verification import SCHEMES, Verifier

SECRET = "one-time-secret-0123456789"
OTHER = "the-secret-before-that-one"
BODY = b'{"user_id": "u1", "phone_number": "14155552671"}'

Headers = list[tuple[bytes, bytes]]


def signed(value: bytes) -> Headers:
    """The headers of a request that carries this signature."""
    return [(b"content-type", b"application/json"), (b"x-webhook-signature", value)]


def mac(algorithm: str, secret: str = SECRET, body: bytes = BODY) -> bytes:
    """An HMAC made without the library's own code, from the definition (RFC 2104)."""
    return hmac.new(secret.encode(), body, getattr(hashlib, algorithm)).digest()


# Name of an encoding -> how a sender may write it. Written here again, apart from the library.
WRITTEN: dict[str, list[Callable[[bytes], bytes]]] = {
    "hex": [lambda d: d.hex().encode(), lambda d: d.hex().upper().encode()],
    "base64": [base64.b64encode, lambda d: base64.b64encode(d).rstrip(b"=")],
    "base64url": [base64.urlsafe_b64encode, lambda d: base64.urlsafe_b64encode(d).rstrip(b"=")],
}
ALGORITHMS = ["sha1", "sha256", "sha384", "sha512"]


def signatures(algorithm: str, digest: bytes, encodings: list[str]) -> list[bytes]:
    """Every way in which a digest may stand in the header."""
    plain = [write(digest) for encoding in encodings for write in WRITTEN[encoding]]
    return plain + [algorithm.encode() + b"=" + form for form in plain]


def accepts(verifier: Verifier, value: bytes, body: bytes = BODY) -> bool:
    """Whether this signature passes; anything but None or 401 fails the test."""
    try:
        verifier.check_signature(signed(value), body)
    except Refused as refused:
        if refused.status != 401:
            raise
        return False
    return True


# ---------------------------------------------------------------- signatures that pass


SCHEME_CASES = [
    *[(f"hmac-{a}", a, list(WRITTEN)) for a in ALGORITHMS],
    *[(f"hmac-{a}-{e}", a, [e]) for a in ALGORITHMS for e in WRITTEN],
    ("auto", "sha256", list(WRITTEN)),
    ("auto", "sha512", list(WRITTEN)),
]


@pytest.mark.parametrize(("scheme", "algorithm", "encodings"), SCHEME_CASES)
def test_each_scheme_takes_each_of_its_encodings(
    scheme: str, algorithm: str, encodings: list[str]
) -> None:
    """Hex in either case, base64 and base64url with or without padding, and an ``sha256=``."""
    verifier = Verifier(signing_secrets=(SECRET,), scheme=scheme)
    forms = signatures(algorithm, mac(algorithm), encodings)
    assert [form for form in forms if not accepts(verifier, form)] == []


def test_every_scheme_of_the_table_is_tested() -> None:
    """A scheme that is added to the table is added to these cases."""
    assert {scheme for scheme, _, _ in SCHEME_CASES} | {"secret"} == set(SCHEMES)


@pytest.mark.parametrize("scheme", ["secret", "auto"])
def test_the_secret_itself_is_a_signature(scheme: str) -> None:
    """The vendor's published example can only be the secret itself: 128 bytes, no HMAC's size."""
    example = base64.urlsafe_b64encode(bytes(range(128))).rstrip(b"=")
    assert len(example) == 171
    verifier = Verifier(signing_secrets=(example.decode(),), scheme=scheme)
    assert accepts(verifier, example)
    assert not accepts(verifier, example[:-1])


@pytest.mark.parametrize("name", [b"X-Webhook-Signature", b"x-webhook-signature"])
def test_the_case_of_the_header_does_not_matter(name: bytes) -> None:
    """Servers hand headers over in lower case, as ASGI asks; tests often do not."""
    Verifier(signing_secrets=(SECRET,)).check_signature([(name, SECRET.encode())], BODY)


def test_during_a_rotation_the_old_and_the_new_secret_both_sign() -> None:
    """With two secrets either one passes, whichever comes first, and a third does not."""
    for secrets in [(SECRET, OTHER), (OTHER, SECRET)]:
        verifier = Verifier(signing_secrets=secrets, scheme="hmac-sha256")
        assert accepts(verifier, mac("sha256", SECRET).hex().encode())
        assert accepts(verifier, mac("sha256", OTHER).hex().encode())
        assert not accepts(verifier, mac("sha256", "a third, unknown one").hex().encode())


# ---------------------------------------------------------------- signatures that do not


GOOD = mac("sha256").hex().encode()
GOOD_64 = base64.b64encode(mac("sha256"))

REFUSED = {
    "empty": b"",
    "a blank": b" ",
    "only the prefix": b"sha256=",
    "the prefix of another algorithm": b"sha1=" + GOOD,
    "the prefix twice": b"sha256=sha256=" + GOOD,
    "a blank after it": GOOD + b" ",
    "cut": GOOD[:-1],
    "one more": GOOD + b"0",
    "one digit off": GOOD[:-1] + (b"0" if GOOD[-1:] != b"0" else b"1"),
    "both, joined": GOOD + b", " + GOOD,
    "base64 padded too much": GOOD_64 + b"=",
    "base64 with a line end": GOOD_64 + b"\n",
    "base64 with a letter of no alphabet": b"!" + GOOD_64[1:],
    "base64 of the hex": base64.b64encode(GOOD),
    "1 MB": b"A" * 1_000_000,
    "the right one and 1 MB": GOOD + b"A" * 1_000_000,
    "not ASCII": "é".encode() * 32,
    "NUL": b"\0" * 64,
    "of no body": mac("sha256", body=b"").hex().encode(),
    "of the body written again": mac("sha256", body=BODY.replace(b" ", b"")).hex().encode(),
    "of another secret": mac("sha256", OTHER).hex().encode(),
    "of the empty secret": mac("sha256", "").hex().encode(),
    "a plain hash, without the secret": hashlib.sha256(BODY).hexdigest().encode(),
}


@pytest.mark.parametrize("scheme", ["auto", "hmac-sha256"])
@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_a_signature_that_does_not_fit_is_refused(scheme: str, value: bytes) -> None:
    """Whatever stands in the header, it fits exactly or it is a 401."""
    verifier = Verifier(signing_secrets=(SECRET,), scheme=scheme)
    assert accepts(verifier, GOOD)
    assert not accepts(verifier, value)


def test_base64_whose_spare_bits_differ_is_refused() -> None:
    """Decoders take two spellings of the last letter for the same bytes; here one is right."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = bytes([alphabet[alphabet.index(GOOD_64[-2]) ^ 1]])
    odd = GOOD_64[:-2] + twin + b"="
    assert odd != GOOD_64
    assert base64.b64decode(odd) == base64.b64decode(GOOD_64)
    assert not accepts(Verifier(signing_secrets=(SECRET,)), odd)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing"),
        ([(b"x-signature", GOOD)], "missing"),
        ([(b"x-webhook-signature", GOOD)] * 2, "more than once"),
        ([(b"x-webhook-signature", GOOD), (b"X-Webhook-Signature", b"no")], "more than once"),
    ],
)
def test_a_header_that_is_absent_or_doubled_proves_nothing(headers: Headers, reason: str) -> None:
    """One signature, once; which of two would count is not for a sender to choose."""
    with pytest.raises(Refused, match=reason) as caught:
        Verifier(signing_secrets=(SECRET,)).check_signature(headers, BODY)
    assert caught.value.status == 401


def test_a_pinned_scheme_takes_no_other() -> None:
    """Pinned to one encoding, the secret itself and every other spelling are refused."""
    verifier = Verifier(signing_secrets=(SECRET,), scheme="hmac-sha256-hex")
    assert accepts(verifier, GOOD)
    for value in [SECRET.encode(), GOOD_64, mac("sha512").hex().encode()]:
        assert not accepts(verifier, value)


def test_auto_takes_no_short_mac() -> None:
    """SHA-1 and SHA-384 are for those who pin them; auto does not take them."""
    verifier = Verifier(signing_secrets=(SECRET,))
    assert not accepts(verifier, mac("sha1").hex().encode())
    assert not accepts(verifier, mac("sha384").hex().encode())


def test_a_secret_that_is_not_ascii_never_passes_as_a_header() -> None:
    """A header is ASCII here, even where the secret is not."""
    verifier = Verifier(signing_secrets=("sécrète-0123456789",), scheme="secret")
    assert not accepts(verifier, "sécrète-0123456789".encode())


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    """The reason holds neither the secret, nor the right signature, nor the given one."""
    with pytest.raises(Refused) as caught:
        Verifier(signing_secrets=(SECRET,)).check_signature(signed(b"given-by-them"), BODY)
    for text in (SECRET, GOOD.decode(), "given-by-them"):
        assert text not in str(caught.value)


ascii_secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


def flipped(content: bytes, where: int, mask: int) -> bytes:
    """The same bytes with one of them changed."""
    at = where % len(content)
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


@given(
    secret=ascii_secrets,
    body=st.binary(min_size=1, max_size=200),
    case=st.sampled_from(SCHEME_CASES),
    where=st.integers(0, 10_000),
    mask=st.integers(1, 255),
)
def test_any_body_and_secret_verify_and_one_changed_byte_does_not(
    secret: str, body: bytes, case: tuple[str, str, list[str]], where: int, mask: int
) -> None:
    """Whatever is signed, one changed byte of the body or the secret is a 401 in each form."""
    scheme, algorithm, encodings = case
    verifier = Verifier(signing_secrets=(secret,), scheme=scheme)
    at = where % len(secret)
    letter = "!" if secret[at] != "!" else "?"
    wrong = Verifier(signing_secrets=(secret[:at] + letter + secret[at + 1 :],), scheme=scheme)
    for form in signatures(algorithm, mac(algorithm, secret, body), encodings):
        assert accepts(verifier, form, body)
        assert not accepts(verifier, form, flipped(body, where, mask))
        assert not accepts(wrong, form, body)


@given(headers=st.lists(st.tuples(st.binary(), st.binary())), body=st.binary())
def test_no_headers_at_all_raise_anything_but_a_refusal(headers: Headers, body: bytes) -> None:
    """Random names and values end in a 401, for the table and for a function of the user's."""
    verifier = Verifier(signing_secrets=(SECRET,))
    with pytest.raises(Refused):
        verifier.check_signature(headers, body)
    Verifier(function=lambda headers, body: True).check_signature(headers, body)


# ---------------------------------------------------------------- the secret path


@pytest.mark.parametrize(
    "segment", [None, "", "secret-pat", "secret-path2", "SECRET-PATH", "secret-päth", "\ud800", "/"]
)
def test_a_wrong_or_missing_path_secret_is_not_found(segment: str | None) -> None:
    """Missing and wrong look the same from outside: 404, with the same words."""
    with pytest.raises(Refused, match="nothing is received at this path") as caught:
        Verifier(path_secret="secret-path").check_path(segment)
    assert caught.value.status == 404


def test_the_right_path_secret_passes() -> None:
    """The segment after the path is the secret, letter for letter."""
    Verifier(path_secret="secret-path").check_path("secret-path")


def test_without_a_path_secret_only_the_bare_path_is_there() -> None:
    """Nobody is told that a secret counts where none is set."""
    Verifier().check_path(None)
    with pytest.raises(Refused):
        Verifier().check_path("anything")


# ---------------------------------------------------------------- accounts


def test_only_the_allowed_accounts_pass() -> None:
    """Each listed account passes, wherever it stands in the list; others are a 403."""
    verifier = Verifier(accounts=("u1", "u2"))
    verifier.check_account("u1")
    verifier.check_account("u2")
    for other in ["", "u", "u11", "U1", "u1 ", "u1,u2", "\ud800", "ü1"]:
        with pytest.raises(Refused) as caught:
            verifier.check_account(other)
        assert caught.value.status == 403


def test_without_accounts_every_account_passes() -> None:
    """No list means no check, also for a payload that names none."""
    for account in ["u1", "", None]:
        Verifier().check_account(account)


@pytest.mark.parametrize(
    ("verifier", "passes"),
    [
        (Verifier(accounts=("u1",)), False),
        (Verifier(accounts=("u1",), path_secret="secret-path"), True),
        (Verifier(accounts=("u1",), signing_secrets=(SECRET,)), True),
        (Verifier(accounts=("u1",), function=lambda headers, body: True), True),
    ],
)
def test_a_status_without_account_needs_another_proof(verifier: Verifier, passes: bool) -> None:
    """A delivery status names no account: where accounts are all there is, it is a 403."""
    if passes:
        verifier.check_account(None)
        return
    with pytest.raises(Refused) as caught:
        verifier.check_account(None)
    assert caught.value.status == 403


# ---------------------------------------------------------------- a function of the user's


def test_a_function_decides_by_headers_and_body() -> None:
    """It gets lower-case header names and the raw body; True passes."""
    seen: list[tuple[Mapping[str, str], bytes]] = []

    def verify(headers: Mapping[str, str], body: bytes) -> bool:
        seen.append((headers, body))
        return headers["x-token"] == "t"

    headers = [(b"X-Token", b"t"), (b"x-twice", b"a"), (b"X-Twice", b"b")]
    Verifier(function=verify).check_signature(headers, BODY)
    assert seen == [({"x-token": "t", "x-twice": "a, b"}, BODY)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("answer", [False, None, 1, "yes", [True]])
def test_only_true_itself_passes(answer: object) -> None:
    """What is merely truthy is no proof."""
    with pytest.raises(Refused) as caught:
        Verifier(function=lambda headers, body: answer).check_signature([], BODY)  # type: ignore[arg-type,return-value]
    assert caught.value.status == 401


def test_a_coroutine_in_disguise_is_no_proof() -> None:
    """A plain function that returns a coroutine is refused, and leaves no warning behind."""

    async def later() -> bool:
        return True

    with pytest.raises(Refused):
        Verifier(function=lambda headers, body: later()).check_signature([], BODY)  # type: ignore[arg-type,return-value]


def test_a_function_that_raises_refuses_and_logs_no_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says which error and where it was raised; its text may hold a secret."""

    def verify(headers: Mapping[str, str], body: bytes) -> bool:
        raise KeyError(f"{SECRET} {body!r}")

    with caplog.at_level(logging.WARNING), pytest.raises(Refused) as caught:
        Verifier(function=verify).check_signature([], BODY)
    assert caught.value.status == 401
    assert caught.value.__context__ is None
    [record] = caplog.records
    assert "KeyError" in record.getMessage()
    assert "test_verification.py:" in record.getMessage()
    assert SECRET not in caplog.text
    assert "14155552671" not in caplog.text


def test_a_function_and_a_signature_must_both_hold() -> None:
    """Proofs add up; neither replaces the other."""
    both = Verifier(signing_secrets=(SECRET,), function=lambda headers, body: b"u1" in body)
    assert accepts(both, mac("sha256").hex().encode())
    assert not accepts(both, b"wrong")
    assert not accepts(both, mac("sha256", body=b"{}").hex().encode(), b"{}")


# ---------------------------------------------------------------- failing closed at start


async def an_async_function(headers: Mapping[str, str], body: bytes) -> bool:
    """A verify function of the wrong kind."""
    return True


class AsyncCall:
    """An object that is called like an async function."""

    async def __call__(self, headers: Mapping[str, str], body: bytes) -> bool:
        return True


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "an empty signing secret": ({"signing_secrets": ("",)}, "signing secret is empty"),
    "a blank signing secret": ({"signing_secrets": (SECRET, " \n")}, "signing secret is empty"),
    "None for a secret": ({"signing_secrets": (None,)}, "signing secret is empty"),
    "a secret letter by letter": ({"signing_secrets": SECRET}, "item of a tuple"),
    "an empty path secret": ({"path_secret": ""}, "path secret is empty"),
    "a blank path secret": ({"path_secret": " "}, "path secret is empty"),
    "an empty account": ({"accounts": ("u1", "")}, "account is empty"),
    "accounts letter by letter": ({"accounts": "u1"}, "item of a tuple"),
    "a misspelled scheme": (
        {"signing_secrets": (SECRET,), "scheme": "hmac-sha265"},
        "did you mean hmac-sha256?",
    ),
    "no scheme like it": ({"signing_secrets": (SECRET,), "scheme": "none"}, "known: auto, secret"),
    "an empty scheme": ({"signing_secrets": (SECRET,), "scheme": ""}, "known: auto, secret"),
    "the secret as the scheme": ({"scheme": SECRET}, "known: auto, secret"),
    "a scheme without a secret": ({"scheme": "hmac-sha256"}, "needs a signing_secret"),
    "an async function": ({"function": an_async_function}, "plain def"),
    "an async object": ({"function": AsyncCall()}, "plain def"),
    "no function": ({"function": "verify"}, "cannot be called"),
}


@pytest.mark.parametrize(("arguments", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_proof_that_proves_nothing_is_an_error_at_start(
    arguments: dict[str, object], reason: str
) -> None:
    """An empty secret or an unknown scheme never means "no check"."""
    with pytest.raises(ConfigurationError) as caught:
        Verifier(**arguments)  # type: ignore[arg-type]
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("verifier", "signed", "open_to_anyone"),
    [
        (Verifier(), False, True),
        (Verifier(signing_secrets=(SECRET,)), True, False),
        (Verifier(function=lambda headers, body: True), True, False),
        (Verifier(path_secret="secret-path"), False, False),
        (Verifier(accounts=("u1",)), False, False),
    ],
)
def test_a_verifier_says_what_it_checks(
    verifier: Verifier, signed: bool, open_to_anyone: bool
) -> None:
    """The edges ask this: what to skip, and whether to start beyond loopback."""
    assert verifier.signed is signed
    assert verifier.open_to_anyone is open_to_anyone


def test_without_any_proof_every_delivery_passes() -> None:
    """Nothing set up, nothing checked: fit for loopback only."""
    Verifier().check_signature([], BODY)


def test_a_verifier_does_not_show_its_secrets() -> None:
    """Its repr may land in a log."""
    shown = repr(Verifier(signing_secrets=(SECRET,), path_secret="secret-path"))
    assert SECRET not in shown
    assert "secret-path" not in shown
