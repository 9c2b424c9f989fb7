"""Which routes an event takes: ``Router`` collects them, ``match`` answers and runs none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from .errors import ConfigurationError, told
from .event import Event, Kind, kind_of
from .jobs import JOBS_PER_EVENT, Retries
from .payload import Payload, Status

Handler = Callable[[Event], Any]
H = TypeVar("H", bound=Handler)
Where = Callable[[Event], Any]
Names = str | Iterable[str] | None
USUAL_RETRIES = Retries()
NO_LABELS: frozenset[str] = frozenset()


def _names(value: Names, what: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    names = [value] if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigurationError(f"{what} takes one or several words, not {value!r}")
    return frozenset(name.strip().casefold() for name in names)


@dataclass(frozen=True, slots=True)
class Route:
    """Conditions and a handler, under a stable name. All conditions must hold."""

    name: str
    handler: Handler
    kind: Kind
    message_type: frozenset[str] = frozenset()  # or the status, on ``on_status``; empty: any
    label: frozenset[str] = frozenset()  # at least one of these
    all_labels: frozenset[str] = frozenset()
    unless_label: frozenset[str] = frozenset()
    where: Where | None = None
    retries: Retries = USUAL_RETRIES
    timeout: float | None = 300.0
    concurrency: int | None = None
    strict: bool = False
    otherwise: bool = False

    def admits(self, type_: str, labels: frozenset[str]) -> bool:
        """Whether every condition but ``where`` holds; ``labels`` are case-folded."""
        return (
            (not self.message_type or type_ in self.message_type)
            and (not self.label or not self.label.isdisjoint(labels))
            and self.all_labels <= labels
            and self.unless_label.isdisjoint(labels)
        )

    def at(self) -> str:
        """Where the handler stands, for messages about clashes."""
        function = inspect.unwrap(self.handler)
        code = getattr(function, "__code__", None)
        module = getattr(function, "__module__", "?")
        name = getattr(function, "__qualname__", repr(function))
        return f"{module}.{name}" + (f" (line {code.co_firstlineno})" if code else "")


class Match(NamedTuple):
    """A route that an event takes; ``problem`` is why its ``where`` could not be asked."""

    route: Route
    problem: str | None = None


class Router:
    """Routes in the order in which they were written.

    With ``first_match=True`` an event takes the first route that matches and no other.
    """

    def __init__(self, *, first_match: bool = False) -> None:
        self.first_match = first_match
        self._entries: list[Route | Router] = []
        self._otherwise: list[Route] = []
        self._frozen = False

    # ------------------------------------------------------------ the decorators

    def on(
        self,
        message_type: Names = None,
        *,
        label: Names = None,
        all_labels: Names = None,
        unless_label: Names = None,
        where: Where | None = None,
        name: str | None = None,
        retries: int | Retries | None = None,
        timeout: float | None = 300.0,
        concurrency: int | None = None,
        strict: bool = False,
    ) -> Callable[[H], H]:
        """Run the function for each incoming message that fits.

        ``message_type``: one or several; ``label``: any of these; ``all_labels``: every one;
        ``unless_label``: none of these (all compared without case); ``where``: a function of
        the event. ``retries``: how many attempts in all, or a ``Retries``; ``timeout``: seconds
        an attempt may take, None for no bound; ``concurrency``: how many at once over all
        conversations; ``strict``: a conversation waits while one of its jobs waits for a retry.
        ``name``: defaults to the function's; jobs are stored under it, so renaming a function
        without keeping its name leaves its unfinished jobs waiting.
        """
        return self._adder("incoming", **_given(locals()))

    def on_outgoing(
        self,
        message_type: Names = None,
        *,
        label: Names = None,
        all_labels: Names = None,
        unless_label: Names = None,
        where: Where | None = None,
        name: str | None = None,
        retries: int | Retries | None = None,
        timeout: float | None = 300.0,
        concurrency: int | None = None,
        strict: bool = False,
    ) -> Callable[[H], H]:
        """Like ``on``, for messages that your own side sent."""
        return self._adder("outgoing", **_given(locals()))

    def on_status(
        self,
        status: Names = None,
        *,
        where: Where | None = None,
        name: str | None = None,
        retries: int | Retries | None = None,
        timeout: float | None = 300.0,
        concurrency: int | None = None,
        strict: bool = False,
    ) -> Callable[[H], H]:
        """Run the function for each status of a message you sent: ``sent``, ``delivered``, …"""
        given = _given(locals())
        given["message_type"] = given.pop("status")
        return self._adder("status", **given)

    def otherwise(
        self,
        *,
        name: str | None = None,
        retries: int | Retries | None = None,
        timeout: float | None = 300.0,
        concurrency: int | None = None,
        strict: bool = False,
    ) -> Callable[[H], H]:
        """Run the function for each incoming message that nothing else of this router took."""
        return self._adder("incoming", otherwise=True, **_given(locals()))

    def include(self, router: Router) -> None:
        """Ask another router too, at this place; its ``first_match`` counts inside it only."""
        self._refuse_if_frozen()
        if router is self or self in router._inside():
            raise ConfigurationError("a router cannot include itself")
        if router in self._inside():
            raise ConfigurationError("this router is included already: its routes would run twice")
        self._entries.append(router)

    # ------------------------------------------------------------ the answers

    def match(self, payload: Payload | Status, event: Callable[[], Event]) -> list[Match]:
        """The routes that a payload takes, in order. Asks conditions, runs no handler.

        ``event`` makes what a ``where=`` is asked about; it is called only where there is one.
        """
        if isinstance(payload, Status):
            return self._match(event, "status", payload.status.casefold(), NO_LABELS)
        labels = (
            frozenset([label.casefold() for label in payload.labels])
            if payload.labels
            else NO_LABELS
        )
        return self._match(event, kind_of(payload), payload.message_type, labels)

    def _match(
        self, event: Callable[[], Event], kind: Kind, type_: str, labels: frozenset[str]
    ) -> list[Match]:
        found: list[Match] = []
        for entry in self._entries:
            if isinstance(entry, Router):
                found += entry._match(event, kind, type_, labels)
            elif entry.kind == kind and entry.admits(type_, labels):
                if entry.where is None:
                    found.append(Match(entry))
                elif match := _asked(entry, event()):
                    found.append(match)
            if found and self.first_match:
                return found
        if not found and kind == "incoming":
            return [Match(route) for route in self._otherwise]
        return found

    def routes(self) -> list[Route]:
        """Every route, in order; ``ConfigurationError`` where two have one name."""
        routes = list(self._every())
        by_name: dict[str, Route] = {}
        for route in routes:
            other = by_name.get(route.name)
            by_name[route.name] = route
            if other is route:
                raise ConfigurationError(
                    f"route {route.name!r} is there twice: its router is included in two places"
                )
            if other is not None:
                raise ConfigurationError(
                    f"two routes are named {route.name!r}: {other.at()} and {route.at()}; "
                    "give one of them another name="
                )
        if len(routes) >= JOBS_PER_EVENT // 2:  # the other half is for replays
            raise ConfigurationError(f"{len(routes)} routes are more than {JOBS_PER_EVENT // 2}")
        return routes

    # ------------------------------------------------------------ inside

    def _adder(self, kind: Kind, **given: Any) -> Callable[[H], H]:
        if callable(handler := given.get("message_type")):
            raise ConfigurationError(
                f"the decorator of {getattr(handler, '__name__', handler)!r} needs parentheses: "
                "@receiver.on()"
            )

        def add(handler: H) -> H:
            self._refuse_if_frozen()
            route = _route(handler, kind, **given)
            (self._otherwise if route.otherwise else self._entries).append(route)
            return handler

        return add

    def freeze(self) -> None:
        """Refuse further routes, here and in what is included: events would match a route that
        the inbox does not know."""
        self._frozen = True
        for router in self._inside():
            router._frozen = True

    def _refuse_if_frozen(self) -> None:
        if self._frozen:
            raise ConfigurationError("the receiver has started; routes are added before that")

    def _every(self) -> Iterator[Route]:
        for entry in self._entries:
            if isinstance(entry, Router):
                yield from entry._every()
            else:
                yield entry
        yield from self._otherwise

    def _inside(self) -> Iterator[Router]:
        for entry in self._entries:
            if isinstance(entry, Router):
                yield entry
                yield from entry._inside()


def _given(names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if name != "self"}


def _asked(route: Route, event: Event) -> Match | None:
    assert route.where is not None
    try:
        return Match(route) if route.where(event) else None
    except BaseException as error:  # where= is the user's code: anything may come out
        # Neither "no" (the event would be lost to this route) nor "yes" (it might not be
        # meant): the job is made, discarded with this reason, and can be resubmitted.
        return Match(route, f"where= raised {type(error).__name__}: {told(error)}")


def _route(
    handler: Handler,
    kind: Kind,
    *,
    message_type: Names = None,
    label: Names = None,
    all_labels: Names = None,
    unless_label: Names = None,
    where: Where | None = None,
    name: str | None = None,
    retries: int | Retries | None = None,
    timeout: float | None = None,
    concurrency: int | None = None,
    strict: bool = False,
    otherwise: bool = False,
) -> Route:
    if not callable(handler):
        raise ConfigurationError(
            f"a handler is a function of the event, not {handler!r}; write @receiver.on() with "
            "parentheses"
        )
    if _is(handler, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise ConfigurationError(
            f"{getattr(handler, '__name__', handler)!r} has a yield in it: calling it runs nothing"
        )
    name = name if name is not None else getattr(handler, "__name__", "")
    if not name or name == "<lambda>" or not name.isprintable() or len(name) > 200:
        raise ConfigurationError(f"{handler!r} needs a name= of 1 to 200 printable characters")
    if where is not None and (not callable(where) or _is(where, inspect.iscoroutinefunction)):
        raise ConfigurationError(f"route {name!r}: where= is a plain function of the event")
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"route {name!r}: timeout is seconds above 0, or None")
    if concurrency is not None and concurrency < 1:
        raise ConfigurationError(f"route {name!r}: concurrency is 1 or more, or None")
    try:
        policy = USUAL_RETRIES if retries is None else retries
        policy = Retries(attempts=policy) if isinstance(policy, int) else policy
    except ValueError as error:
        raise ConfigurationError(f"route {name!r}: {error}") from None
    return Route(
        name=name,
        handler=handler,
        kind=kind,
        message_type=_names(message_type, f"route {name!r}: message_type"),
        label=_names(label, f"route {name!r}: label"),
        all_labels=_names(all_labels, f"route {name!r}: all_labels"),
        unless_label=_names(unless_label, f"route {name!r}: unless_label"),
        where=where,
        retries=policy,
        timeout=timeout,
        concurrency=concurrency,
        strict=strict,
        otherwise=otherwise,
    )


def _is(function: Callable[..., Any], *kinds: Callable[[object], bool]) -> bool:
    """Whether a function, or an object that is called like one, is of one of these kinds."""
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is asked about
    return any(kind(function) or kind(call) for kind in kinds)
