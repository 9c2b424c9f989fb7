"""How a receiver is told what to do, and what it says when it is told wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from whatsable_receiver.errors import ConfigurationError
from whatsable_receiver.settings import CONFIDENTIAL, Settings

SECRET = "tellnobody-0123456789"
OTHER = "tellnoone-9876543210"

# Setting -> a value other than its default, as an environment writes it, and what it means.
WRITTEN: dict[str, tuple[str, object]] = {
    "database": ("inbox.db", "inbox.db"),
    "path": ("/hooks/whatsable", "/hooks/whatsable"),
    "path_secret": (SECRET, SecretStr(SECRET)),
    "signing_secret": (f"{SECRET}, {OTHER}", (SecretStr(SECRET), SecretStr(OTHER))),
    "signature": ("hmac-sha256", "hmac-sha256"),
    "accounts": ("u1,u2", ("u1", "u2")),
    "api_key": (SECRET, SecretStr(SECRET)),
    "media": ("off", False),
    "max_body": ("2048", 2048),
    "body_timeout": ("2.5", 2.5),
    "keep_timeout": ("4", 4.0),
    "max_waiting": ("10", 10),
    "max_waiting_bytes": ("2000000", 2_000_000),
    "concurrency": ("3", 3),
    "lease": ("7", 7.0),
    "grace": ("0", 0.0),
    "quarantine_rows": ("5", 5),
    "quarantine_bytes": ("3000000", 3_000_000),
    "keep_bodies": ("1.5", 1.5),
    "keep_keys": ("unbounded", None),
    "max_rows": ("1000", 1000),
    "max_bytes": ("1000000", 1_000_000),
    "log_phones": ("true", True),
}


def env(name: str) -> str:
    """The environment's name of a setting."""
    return f"WHATSABLE_{name.upper()}"


def problem(environ: dict[str, str], **arguments: object) -> str:
    """What ``load`` says about settings that it does not take."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ, **arguments)
    # No chained error either, or a traceback would show what was given.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


# ---------------------------------------------------------------- where values come from


def test_these_tests_know_every_setting() -> None:
    """A setting that is added, removed or renamed fails here."""
    assert list(WRITTEN) == list(Settings.model_fields)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_setting_is_read_from_the_environment(name: str) -> None:
    """``WHATSABLE_`` and the name in capitals sets it, and nothing else."""
    written, meant = WRITTEN[name]
    settings = Settings.load({env(name): written, "PATH": "/bin"})
    assert getattr(settings, name) == meant
    others = Settings.model_fields.keys() - {name}
    assert all(getattr(settings, other) == getattr(Settings(), other) for other in others)
    assert getattr(Settings(), name) != meant


@pytest.mark.parametrize("name", WRITTEN)
def test_every_setting_is_read_from_an_argument(name: str) -> None:
    """An argument takes what the environment takes, and the meant value itself."""
    written, meant = WRITTEN[name]
    assert getattr(Settings.load({}, **{name: written}), name) == meant
    if meant is not None:
        assert getattr(Settings.load({}, **{name: meant}), name) == meant


def test_an_argument_wins_over_the_environment() -> None:
    """Even over a value in the environment that could not be used."""
    assert Settings.load({"WHATSABLE_MAX_BODY": "x"}, max_body=4096).max_body == 4096


def test_an_argument_that_is_none_is_not_given() -> None:
    """A command line passes None for each option that was left out."""
    settings = Settings.load({"WHATSABLE_MAX_BODY": "4096"}, max_body=None, accounts=None)
    assert settings.max_body == 4096


def test_the_defaults_are_these() -> None:
    """What a receiver does when nobody tells it anything."""
    settings = Settings.load({})
    assert settings.database == "whatsable.db"
    assert settings.path == "/webhook"
    assert settings.max_body == 1024 * 1024
    assert settings.keep_timeout < 10  # the vendor's patience
    assert settings.media is None
    assert settings.log_phones is False
    assert (settings.keep_bodies, settings.keep_keys) == (30, 90)


def test_settings_do_not_change() -> None:
    """What the receiver started with is what it runs with."""
    with pytest.raises(ValidationError):
        Settings().path = "/other"  # type: ignore[misc]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WHATSABLE_DATABSE", "WHATSABLE_DATABASE"),
        ("WHATSABLE_SIGNING_SECRETS", "WHATSABLE_SIGNING_SECRET"),
        ("WHATSABLE_ACCOUNT", "WHATSABLE_ACCOUNTS"),
        ("whatsable_path_secret", "WHATSABLE_PATH_SECRET"),
    ],
)
def test_a_misspelled_setting_is_an_error_with_the_nearest(name: str, nearest: str) -> None:
    """A misspelled secret must not mean "no secret"."""
    said = problem({name: SECRET})
    assert said == f"no setting is called {name}; did you mean {nearest}?"


def test_a_misspelled_argument_is_an_error_with_the_nearest() -> None:
    """Also when its value is None: the name is wrong either way."""
    assert problem({}, databse="x") == "no setting is called databse; did you mean database?"
    assert "did you mean accounts?" in problem({}, acounts=None)


@pytest.mark.parametrize("name", ["WHATSABLE_ZZZ", "WHATSABLE_", "WHATSABLE_TURBO"])
def test_an_unknown_setting_that_is_like_no_other_says_where_to_look(name: str) -> None:
    """No guess is better than a wild one; that the prefix is right makes no name alike."""
    assert problem({name: "1"}) == (
        f"no setting is called {name}; docs/security.md lists every setting"
    )


def test_names_for_test_suites_are_left_alone() -> None:
    """``WHATSABLE_TEST_…`` and everybody else's names are no settings."""
    environ = {"WHATSABLE_TEST_POSTGRES": "x", "WHATSABLETOO": "x", "HOME": "/"}
    assert Settings.load(environ) == Settings()


# ---------------------------------------------------------------- values


BAD: dict[str, list[object]] = {
    "database": [
        "",
        " ",
        "mysql://h/d",
        "postgres://h/d",
        "postgresql+psycopg://h/d",
        "sqlite://whatsable.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a.db?mode=ro",
        "sqlite:a.db",
        "file:///a.db",
        ":memory:",
        *["/", ".", "folder/", "sqlite:////"],
        "a\0b",
        b"mysql://h/d",
    ],
    "path": [
        *["", "/", "webhook", "/webhook/", "//webhook", "/a//b", "/webhook?a=1", "/webhook#a"],
        *["/a b", "/a%20b", "/../a", "/a/.", "/wébhook", "/webhook\n", "/health", "/health/x"],
    ],
    "path_secret": [
        *["", " ", "\t", "short", "1234567", "has/a/slash", "has a blank", "quest?ion="],
        *["ünïcödé-secret", "percent%20", "line-end-\n", SecretStr(""), b""],
    ],
    "signing_secret": [
        *["", " ", ",", f"{SECRET},", f",{SECRET}", f"{SECRET},,{OTHER}", "short"],
        *[[], [""], [SECRET, " "], [f"{SECRET}\n"], ["ünïcödé-secret"], {SECRET: 1}, 1234567.5],
    ],
    "signature": [5, ["auto"]],
    "accounts": ["", " ", "u1,", "u1,,u2", [], ["u1", ""], [b" "], [None], 1.5],
    "api_key": ["", "  ", "line\nend", "clé", SecretStr(" ")],
    "media": ["", " ", True, 5, "a\0b"],
    "max_body": ["x", "", "1023", 64 * 1024 * 1024 + 1, -1, 2048.5],
    "body_timeout": ["0", "-1", "nan", "inf", "3601", "soon"],
    "keep_timeout": ["0", "10", "nan", "inf", "-1"],
    "max_waiting": ["0", "-1", "x"],
    "max_waiting_bytes": ["0", "1023", "x"],
    "concurrency": ["0", "1.5"],
    "lease": ["0", "nan", "-3"],
    "grace": ["-1", "nan", "inf"],
    "quarantine_rows": ["0", "x", 2**63],
    "quarantine_bytes": ["0", "x"],
    "keep_bodies": ["-1", "nan", "forever"],
    "keep_keys": ["-1", "inf", ""],
    "max_rows": ["0", "x", "-1", 2**63],
    "max_bytes": ["0", "1.5"],
    "log_phones": ["", "maybe", "2"],
}


def test_every_setting_has_values_that_are_refused() -> None:
    """No setting takes just anything."""
    assert list(BAD) == list(Settings.model_fields)


FOREIGN = re.compile(r"Input|Value error|a valid|unable to|greater than|less than or equal")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_one_sentence_that_names_the_setting(name: str) -> None:
    """An argument by its own name, an environment's value by the environment's; in our words."""
    for value in BAD[name]:
        shown = "used" if name in CONFIDENTIAL else repr(value)
        said = problem({}, **{name: value})
        assert said.startswith(f"{name} cannot be {shown}: "), (value, said)
        assert "\n" not in said
        assert not FOREIGN.search(said), said
        if isinstance(value, str):
            assert problem({env(name): value}).startswith(f"{env(name)} cannot be {shown}: ")


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("log_phones", "maybe", "true or false (whole phone numbers in logs)"),
        ("max_body", "1MiB", "a whole number, at least 1024 and at most 67108864 (bytes of one "),
        ("max_rows", "0", "a whole number, at least 1, or unbounded (finished events kept)"),
        ("keep_bodies", "forever", "a number, at least 0 and at most 36500, or unbounded (days "),
        ("keep_timeout", "nan", "a number, more than 0 and less than 10 (seconds to be stored, "),
        ("accounts", [None], "a list of texts (the allowed `user_id`s)"),
        ("path", "webhook/", "like /webhook or /hooks/webhook: "),
    ],
)
def test_an_error_says_what_would_be_right(name: str, value: object, right: str) -> None:
    """The kind, every bound, the unit: nobody has to try again to learn the next."""
    assert problem({}, **{name: value}).startswith(
        f"{name} cannot be {value!r}: it should be {right}"
    )


SHOWING: list[tuple[str, object]] = [
    ("path_secret", f"{SECRET}/"),
    ("path_secret", [SECRET]),
    ("signing_secret", f"{SECRET},"),
    ("signing_secret", [SECRET, ""]),
    ("signing_secret", [f"{SECRET}\n"]),
    ("signing_secret", {SECRET: SECRET}),
    ("api_key", f"{SECRET}\n"),
    ("api_key", [SECRET]),
    ("signature", [SECRET]),
    ("database", f"mysql://user:{SECRET}@host/db"),
    ("database", [f"postgresql://user:{SECRET}@host/db"]),
    ("media", f"s3://{SECRET}@bucket\0"),
    ("media", [SECRET]),
]


@pytest.mark.parametrize(("name", "value"), SHOWING)
def test_no_error_shows_a_secret(name: str, value: object) -> None:
    """Neither ours at start, nor pydantic's to those who make Settings by hand."""
    assert SECRET not in problem({}, **{name: value})
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({name: value})
    assert SECRET not in str(caught.value)


def test_an_error_in_one_setting_shows_no_secret_of_another() -> None:
    """The whole of the settings is at hand when one fails; only that one is shown."""
    said = problem({"WHATSABLE_PATH_SECRET": SECRET, "WHATSABLE_MAX_BODY": "12"})
    assert said == (
        "WHATSABLE_MAX_BODY cannot be '12': it should be a whole number, at least 1024 and at most "
        "67108864 (bytes of one body)"
    )
    assert SECRET not in problem({"WHATSABLE_PATH_SECRET": SECRET}, keep_keys=1)


def test_an_error_about_two_settings_names_both_as_they_were_written() -> None:
    """With their values, so that one sees which is meant; a default has its own name."""
    said = problem({"WHATSABLE_QUARANTINE_BYTES": "2048"}, max_body=4096)
    assert said.startswith(
        "WHATSABLE_QUARANTINE_BYTES (2048) should be at least max_body (4096), or "
    )
    said = problem({"WHATSABLE_KEEP_BODIES": "unbounded"})
    assert said.startswith(
        "keep_keys (90) should be at least WHATSABLE_KEEP_BODIES (unbounded), or "
    )


def test_repr_and_str_show_no_secret() -> None:
    """Settings may be logged: secrets and a URL's password are masked, the rest is shown."""
    settings = Settings.load(
        {"WHATSABLE_SIGNING_SECRET": f"{SECRET} {OTHER}", "WHATSABLE_API_KEY": SECRET},
        path_secret=SECRET,
        database=f"postgresql://user:{SECRET}/@{OTHER}@host:5432/inbox?password={SECRET}",
        media=f"s3://key:{SECRET}@bucket/folder",
    )
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert SECRET not in shown
        assert OTHER not in shown
        assert "postgresql://***@host:5432/inbox?***" in shown
        assert "s3://***@bucket/folder" in shown
    assert "whatsable.db" in repr(Settings())


@given(value=st.text(min_size=1))
def test_any_text_as_a_secret_is_taken_whole_or_refused(value: str) -> None:
    """A secret is never trimmed, cut or read as something else."""
    for name in ("path_secret", "api_key"):
        try:
            settings = Settings.load({env(name): value})
        except ConfigurationError:
            continue
        assert getattr(settings, name).get_secret_value() == value


# ---------------------------------------------------------------- what values mean


@pytest.mark.parametrize(
    "written", [f"{SECRET},{OTHER}", f"{SECRET} {OTHER}", f" {SECRET} ,\n{OTHER} "]
)
def test_several_secrets_are_parted_by_commas_or_spaces(written: str) -> None:
    """Two secrets during a rotation, however they are written."""
    settings = Settings.load({"WHATSABLE_SIGNING_SECRET": written})
    assert [each.get_secret_value() for each in settings.signing_secret] == [SECRET, OTHER]


@pytest.mark.parametrize("given_as", ["7, u2", ["7", "u2"], (7, "u2"), [7, " u2 "]])
def test_accounts_may_be_numbers(given_as: object) -> None:
    """An account is compared as text, as the payload is."""
    assert Settings.load({}, accounts=given_as).accounts == ("7", "u2")
    assert Settings.load({}, accounts=7).accounts == ("7",)


@pytest.mark.parametrize(
    ("database", "file"),
    [
        ("inbox.db", "inbox.db"),
        (Path("/var/lib/inbox.db"), "/var/lib/inbox.db"),
        ("sqlite:///inbox.db", "inbox.db"),
        ("sqlite:////var/lib/inbox.db", "/var/lib/inbox.db"),
        (r"C:\inbox.db", r"C:\inbox.db"),
        ("postgresql://host/inbox", None),
    ],
)
def test_a_database_is_a_path_or_a_url(database: object, file: str | None) -> None:
    """Three slashes are a relative path and four an absolute one."""
    assert Settings.load({}, database=database).sqlite_file == file


@pytest.mark.parametrize(
    ("media", "meant"),
    [("off", False), ("OFF", False), (False, False), ("files", "files"), (Path("a/b"), "a/b")],
)
def test_media_is_a_place_or_off(media: object, meant: object) -> None:
    """Off is said, and is not the same as not said."""
    assert Settings.load({}, media=media).media == meant


def test_the_largest_body_finds_room() -> None:
    """A bound that no largest body fits into would refuse it for ever."""
    for name in ("max_waiting_bytes", "quarantine_bytes"):
        said = problem({env(name): "2048"})
        assert env(name) in said
        assert "max_body" in said
        assert getattr(Settings.load({env(name): "2048"}, max_body=2048), name) == 2048


@pytest.mark.parametrize(
    ("bodies", "keys"), [(30, 7), ("unbounded", 90), (365, None), ("unbounded", None)]
)
def test_keys_outlive_bodies(bodies: object, keys: object) -> None:
    """An event that is still here is recognised when it comes again."""
    said = problem({}, keep_bodies=bodies, keep_keys=keys)
    assert "keep_keys" in said
    assert "keep_bodies" in said
    Settings.load({}, keep_bodies=bodies, keep_keys="unbounded")


# ---------------------------------------------------------------- the docs


def meant(cell: str) -> object:
    """A default as the table writes it: ``1 MiB``, ``30``, ``none``, or code."""
    if size := re.fullmatch(r"(\d+)( MiB)?", cell):
        return int(size[1]) * (1024 * 1024 if size[2] else 1)
    return None if cell in ("none", "all", "`unbounded`", "`false`") else cell.strip("`")


def test_the_docs_list_every_setting_and_its_default() -> None:
    """docs/security.md has one row for each setting, in the model's order, and for no other."""
    page = Path(__file__).parent.parent / "docs" / "security.md"
    row = re.compile(r"^\| `(WHATSABLE_[A-Z_]+)` \| (.+?) \|", re.MULTILINE)
    rows = row.findall(page.read_text("utf-8"))
    assert [name for name, _ in rows] == [env(name) for name in Settings.model_fields]
    # None, () and False are all written as a word for "not".
    written = [meant(cell) or None for _, cell in rows]
    assert written == [value or None for _, value in Settings()]
