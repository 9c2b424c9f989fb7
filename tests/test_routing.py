"""Which routes an event takes, in which order, and what is wrong at start."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsable_receiver import Event, Retries, Router
from whatsable_receiver.errors import ConfigurationError
from whatsable_receiver.payload import read
from whatsable_receiver.routing import Match


def never(event: Event) -> NoReturn:
    """A handler that must not run: matching runs none."""
    raise AssertionError("a handler ran")


def event(**fields: Any) -> Event:
    """An event of an incoming text, with these fields."""
    message = {"phone_number": "14155550100", "message_type": "text", **fields}
    raw = json.dumps(message).encode()
    return Event(read(raw), raw, datetime(2026, 1, 1, tzinfo=UTC))


def status(word: str = "failed") -> Event:
    """An event of a delivery status."""
    data = {"message_id": "wamid.1", "status": word, "timestamp": "2026-01-01T00:00:00Z"}
    raw = json.dumps({"event": "message_status", "data": data}).encode()
    return Event(read(raw), raw, datetime(2026, 1, 1, tzinfo=UTC))


def match(router: Router, one: Event) -> list[Match]:
    """What the router answers for an event."""
    return router.match(one.payload, lambda: one)


def names(router: Router, one: Event) -> list[str]:
    """The names of the routes that an event takes."""
    return [found.route.name for found in match(router, one)]


# ---------------------------------------------------------------- conditions

TEXT = {"message_type": "text"}
CONDITIONS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({"message_type": "text"}, {}, True),
    ({"message_type": "TEXT"}, {}, True),
    ({"message_type": "text"}, {"message_type": "Text"}, True),
    ({"message_type": "image"}, {}, False),
    ({"message_type": ["image", "text"]}, {}, True),
    ({"message_type": ("image", "video")}, {}, False),
    ({"message_type": {"sticker"}}, {"message_type": "sticker"}, True),
    ({"message_type": "tex"}, {}, False),
    ({"label": "support"}, {"labels": "support"}, True),
    ({"label": "Support "}, {"labels": " sUPPORT"}, True),
    ({"label": "support"}, {"labels": "support-billing"}, False),
    ({"label": "support"}, {"labels": "vip, support"}, True),
    ({"label": "support"}, {"labels": ["vip", "support"]}, True),
    ({"label": "support"}, {"labels": ""}, False),
    ({"label": "support"}, {}, False),
    ({"label": ["support", "vip"]}, {"labels": "vip"}, True),
    ({"label": ["support", "vip"]}, {"labels": "other"}, False),
    ({"label": "STRASSE"}, {"labels": "straße"}, True),
    ({"all_labels": ["support", "vip"]}, {"labels": "vip, support, x"}, True),
    ({"all_labels": ["support", "vip"]}, {"labels": "vip"}, False),
    ({"all_labels": "vip"}, {"labels": "VIP"}, True),
    ({"unless_label": "human"}, {}, True),
    ({"unless_label": "human"}, {"labels": "Human"}, False),
    ({"unless_label": ["human", "done"]}, {"labels": "a, done"}, False),
    ({"unless_label": "human"}, {"labels": "humane"}, True),
    ({"label": "support", "unless_label": "human"}, {"labels": "support"}, True),
    ({"label": "support", "unless_label": "human"}, {"labels": "support, human"}, False),
    ({"label": "a", "all_labels": ["b", "c"]}, {"labels": "a, b, c"}, True),
    ({"label": "a", "all_labels": ["b", "c"]}, {"labels": "b, c"}, False),
    ({"message_type": "image", "label": "a"}, {"labels": "a"}, False),
    ({"where": lambda e: e.text == "hi"}, {"last_message_of_user": "hi"}, True),
    ({"where": lambda e: e.text == "hi"}, {"last_message_of_user": "ho"}, False),
    ({"where": lambda e: []}, {}, False),
    ({"where": lambda e: "yes"}, {}, True),
    ({"where": lambda e: e.id is None and e.attempt == 1}, {}, True),
    ({}, {"incoming_message": False}, False),
    ({}, {"message_type": "unheard-of"}, True),
]


@pytest.mark.parametrize(("conditions", "fields", "fits"), CONDITIONS, ids=str)
def test_every_condition_given_must_hold(
    conditions: dict[str, Any], fields: dict[str, Any], fits: bool
) -> None:
    """Types and labels are compared whole and without case; ``where`` is asked last."""
    router = Router()
    router.on(**conditions, name="r")(never)
    assert names(router, event(**fields)) == ["r"] * fits


LABELS = st.lists(st.sampled_from(["a", "B", "c-d", "é"]), max_size=3)


@given(LABELS, LABELS, LABELS, LABELS)
def test_labels_are_sets(
    here: list[str], any_of: list[str], all_of: list[str], none_of: list[str]
) -> None:
    """Any, all and none of some labels mean what they mean for sets."""
    router = Router()
    router.on(
        label=any_of or None, all_labels=all_of or None, unless_label=none_of or None, name="r"
    )(never)
    there = set(here)
    fits = (
        (not any_of or bool(there & set(any_of)))
        and there >= set(all_of)
        and not there & set(none_of)
    )
    assert names(router, event(labels=", ".join(here).upper())) == ["r"] * fits


def test_the_three_directions_are_never_mixed() -> None:
    """A route is for incoming messages, outgoing ones, or statuses: no bot answers itself."""
    router = Router()
    router.on(name="in")(never)
    router.on_outgoing(name="out")(never)
    router.on_status(name="status")(never)
    router.on_status("failed", name="failed")(never)
    router.on_status(["sent", "READ"], name="sent or read")(never)
    router.otherwise(name="rest")(never)
    assert names(router, event()) == ["in"]
    assert names(router, event(incoming_message=False)) == ["out"]
    assert names(router, status("failed")) == ["status", "failed"]
    assert names(router, status("Read")) == ["status", "sent or read"]


def test_outgoing_messages_have_conditions_too() -> None:
    """``on_outgoing`` takes the conditions of ``on``."""
    router = Router()
    router.on_outgoing("text", label="a", where=lambda e: e.text == "bot", name="r")(never)
    fields = {"incoming_message": False, "labels": "a", "last_message_of_bot": "bot"}
    assert names(router, event(**fields)) == ["r"]
    assert names(router, event(**fields | {"labels": "b"})) == []


# ---------------------------------------------------------------- order


def test_every_matching_route_is_taken_in_the_order_of_writing() -> None:
    """Promise 2: an event takes each route that fits, once."""
    router = Router()
    for name in "cab":
        router.on(name=name)(never)
    assert names(router, event()) == ["c", "a", "b"]


def test_first_match_stops_at_the_first() -> None:
    """With ``first_match`` an event takes one route, and later conditions are not asked."""
    router = Router(first_match=True)
    asked = []
    router.on("image", name="image")(never)
    router.on("text", name="text")(never)
    router.on(where=lambda e: asked.append(e), name="never asked")(never)
    router.otherwise(name="rest")(never)
    assert names(router, event()) == ["text"]
    assert asked == []
    assert names(router, event(message_type="video")) == ["rest"]


def test_an_included_router_answers_at_its_place() -> None:
    """Routes of an included router stand where it was included; its first_match is its own."""
    inner = Router(first_match=True)
    inner.on(name="inner 1")(never)
    inner.on(name="inner 2")(never)
    outer = Router()
    outer.on(name="outer 1")(never)
    outer.include(inner)
    outer.on(name="outer 2")(never)
    assert names(outer, event()) == ["outer 1", "inner 1", "outer 2"]
    assert [route.name for route in outer.routes()] == ["outer 1", "inner 1", "inner 2", "outer 2"]


def test_first_match_of_the_outer_router_counts_for_the_inner_one() -> None:
    """An outer ``first_match`` stops after an included router that matched, with all it found."""
    inner = Router()
    inner.on("text", name="inner 1")(never)
    inner.on("text", name="inner 2")(never)
    outer = Router(first_match=True)
    outer.include(inner)
    outer.on(name="outer")(never)
    assert names(outer, event()) == ["inner 1", "inner 2"]
    assert names(outer, event(message_type="image")) == ["outer"]


def test_otherwise_is_for_what_nothing_else_took() -> None:
    """Every ``otherwise`` of a router runs for incoming messages that its routes left."""
    router = Router()
    router.otherwise(name="rest 1")(never)
    router.on("text", name="text")(never)
    router.otherwise(name="rest 2")(never)
    assert names(router, event()) == ["text"]
    assert names(router, event(message_type="image")) == ["rest 1", "rest 2"]
    assert names(router, event(message_type="image", incoming_message=False)) == []
    assert names(router, status()) == []


def test_otherwise_of_an_included_router_is_its_own() -> None:
    """An included router's ``otherwise`` catches what that router left, and counts as a match."""
    inner = Router()
    inner.on("image", name="image")(never)
    inner.otherwise(name="inner rest")(never)
    outer = Router()
    outer.include(inner)
    outer.otherwise(name="outer rest")(never)
    assert names(outer, event()) == ["inner rest"]
    assert names(outer, event(message_type="image")) == ["image"]


# ---------------------------------------------------------------- where= that raises


def test_a_where_that_raises_makes_a_job_with_its_reason() -> None:
    """Promise 4: neither yes nor no: the route is matched, with the problem beside it."""
    router = Router()
    router.on(where=lambda e: 1 / 0, name="broken")(never)
    router.on(where=lambda e: int("x" * 20_000), name="long")(never)
    router.on(name="fine")(never)
    broken, long, fine = match(router, event())
    assert broken.problem == "where= raised ZeroDivisionError: division by zero"
    assert long.problem is not None
    assert len(long.problem) <= 1000
    assert fine.problem is None


def test_a_where_that_raises_counts_as_a_match() -> None:
    """``first_match`` and ``otherwise`` do not send the event elsewhere because of a bug."""
    router = Router(first_match=True)
    router.on(where=lambda e: 1 / 0, name="broken")(never)
    router.on(name="next")(never)
    router.otherwise(name="rest")(never)
    assert names(router, event()) == ["broken"]


def test_matching_runs_no_handler_and_makes_no_event_for_nothing() -> None:
    """``match`` answers; it asks for the event only where there is a ``where``."""
    router = Router()
    router.on(name="a")(never)
    asked = []
    one = event()
    assert len(router.match(one.payload, lambda: asked.append(1) or one)) == 1  # type: ignore[func-returns-value]
    assert asked == []


# ---------------------------------------------------------------- what is wrong at start


def test_two_routes_of_one_name_are_named_both() -> None:
    """A clash is an error that says where both stand, also across included routers."""

    def answer(event: Event) -> None: ...

    def other(event: Event) -> None: ...

    inner, outer = Router(), Router()
    outer.on("text")(answer)
    inner.on("image", name="answer")(other)
    outer.include(inner)
    with pytest.raises(ConfigurationError) as caught:
        outer.routes()
    said = str(caught.value)
    assert "'answer'" in said
    assert said.count("test_routing") == 2
    assert ".other" in said
    assert f"line {other.__code__.co_firstlineno}" in said


def test_one_function_on_two_routes_needs_a_name() -> None:
    """The same handler for two conditions is two routes; jobs of both would be mixed up."""
    router = Router()
    router.on("text")(never)
    router.on("image")(never)
    with pytest.raises(ConfigurationError, match="'never'"):
        router.routes()


@pytest.mark.parametrize("place", ["twice", "within", "itself", "in a circle"])
def test_a_router_is_included_once(place: str) -> None:
    """Included twice its routes would run twice; included in itself it would never end."""
    outer, inner, innermost = Router(), Router(), Router()
    inner.include(innermost)
    outer.include(inner)
    with pytest.raises(ConfigurationError):
        {
            "twice": lambda: outer.include(inner),
            "within": lambda: outer.include(innermost),
            "itself": lambda: outer.include(outer),
            "in a circle": lambda: innermost.include(outer),
        }[place]()


def test_a_router_within_two_others_is_found_at_start() -> None:
    """Included in two routers that meet only later, its routes would run twice: an error."""
    one, other, shared, outer = Router(), Router(), Router(), Router()
    shared.on(name="shared")(never)
    outer.include(one)
    outer.include(other)
    one.include(shared)
    other.include(shared)
    with pytest.raises(ConfigurationError, match="'shared' is there twice"):
        outer.routes()


def test_a_frozen_router_takes_no_more() -> None:
    """A route that the inbox does not know would match events: neither here nor in what is
    included is one added, by any of the decorators; what was there still matches."""
    inner, outer = Router(), Router()
    inner.on(name="inner")(never)
    outer.include(inner)
    outer.freeze()
    for router in (outer, inner):
        for add in (router.on, router.on_outgoing, router.on_status, router.otherwise):
            with pytest.raises(ConfigurationError, match="before that"):
                add(name="late")(never)
        with pytest.raises(ConfigurationError, match="before that"):
            router.include(Router())
    assert [route.name for route in outer.routes()] == ["inner"]
    assert names(outer, event()) == ["inner"]


async def later(one: Event) -> bool:
    """A condition that cannot be one: what it returns is true, whatever it would say."""
    return False


class Later:
    """The same as an object."""

    async def __call__(self, one: Event) -> bool:
        """Never awaited."""
        return False


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"message_type": ""}, "message_type"),
    ({"message_type": []}, "message_type"),
    ({"message_type": ["text", " "]}, "message_type"),
    ({"message_type": [1]}, "message_type"),
    ({"label": ""}, "label"),
    ({"all_labels": []}, "all_labels"),
    ({"unless_label": [None]}, "unless_label"),
    ({"name": ""}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": float("nan")}, "timeout"),
    ({"concurrency": 0}, "concurrency"),
    ({"retries": 0}, "at least 1 attempt"),
    ({"where": later}, "where= is a plain function"),
    ({"where": Later()}, "where= is a plain function"),
    ({"where": "label == 'x'"}, "where= is a plain function"),
    ({"where": True}, "where= is a plain function"),
]


@pytest.mark.parametrize(("given_", "said"), WRONG, ids=str)
def test_wrong_arguments_are_refused_where_they_are_written(
    given_: dict[str, Any], said: str
) -> None:
    """An error names the route and what is wrong with it, before anything runs."""
    with pytest.raises(ConfigurationError, match=said):
        Router().on(**given_)(never)


def test_a_forgotten_pair_of_parentheses_is_explained() -> None:
    """``@router.on`` without parentheses, and what is no function at all, say what to write."""
    with pytest.raises(ConfigurationError):
        Router().on(never)(event())  # type: ignore[arg-type, type-var]
    with pytest.raises(ConfigurationError, match="parentheses"):
        Router().on()("not a function")  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match="name="):
        Router().on()(lambda e: None)


def yielding(event: Event) -> Iterator[None]:
    """A handler of which nothing would run."""
    yield


async def yielding_later(event: Event) -> AsyncIterator[None]:
    """The same, async."""
    yield


@pytest.mark.parametrize("handler", [yielding, yielding_later])
def test_a_generator_is_no_handler(handler: Any) -> None:
    """Calling one runs nothing, and its job would complete: refused where it is written."""
    with pytest.raises(ConfigurationError, match=rf"'{handler.__name__}' has a yield"):
        Router().on()(handler)


def test_the_options_of_a_route_are_on_it() -> None:
    """Retries, timeout, concurrency and strictness are what was written, or their defaults."""
    router = Router()
    policy = Retries(attempts=2, first=5)
    router.on(name="a", retries=3, timeout=None, concurrency=2, strict=True)(never)
    router.on(name="b", retries=policy)(never)
    a, b = router.routes()
    assert (a.retries.attempts, a.timeout, a.concurrency, a.strict) == (3, None, 2, True)
    assert (b.retries, b.timeout, b.concurrency, b.strict) == (policy, 300.0, None, False)


def test_a_decorated_function_stays_as_it_was() -> None:
    """The decorators give the function back, so that it can be called and tested."""
    router = Router()
    assert router.on()(never) is never
    assert router.otherwise(name="x")(never) is never
