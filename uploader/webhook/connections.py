"""Which connections of the listener stand, and which one gives way where there are too many."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Connections(Generic[T]):
    """The connections of a listener; no I/O.

    A connection is a stranger's until it has shown a token of ours. Of the idle ones the oldest stranger gives way:
    who really calls says it at once, and who turned new ones away would be deaf as long as others keep silent. A
    reverse proxy keeps its connection for the next call: those that are known stay, until they are more than half;
    then the one that has been idle longest goes, so that there is always room to become known. Who is being answered
    never gives way.

    Args:
        most: How many may be idle.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._strangers: dict[T, None] = {}
        self._known: dict[T, None] = {}
        self._answered: set[T] = set()

    @property
    def idle(self) -> list[T]:
        """Who is not being answered; strangers stand before the known, each by age."""
        return [*self._strangers, *self._known]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._strangers) + len(self._known) + len(self._answered)

    def come(self, connection: T) -> T | None:
        """Count a new connection; the one that gives way for it, if need be."""
        self._strangers[connection] = None
        return self._surplus()

    def show_token(self, connection: T) -> None:
        """Take note that a connection has shown a token."""
        if connection in self._strangers:
            del self._strangers[connection]
            self._known[connection] = None

    def begin_answer(self, connection: T) -> None:
        """Keep a connection from giving way."""
        if connection in self._known:
            del self._known[connection]
            self._answered.add(connection)

    def end_answer(self, connection: T) -> T | None:
        """Count it among the idle again; the one that gives way for it, if need be."""
        if connection in self._answered:
            self._answered.discard(connection)
            self._known[connection] = None
        return self._surplus()

    def go(self, connection: T) -> None:
        """Forget a connection that is closed."""
        self._strangers.pop(connection, None)
        self._known.pop(connection, None)
        self._answered.discard(connection)

    def _surplus(self) -> T | None:
        if len(self._strangers) + len(self._known) <= self._most:
            return None
        crowd = self._known if len(self._known) > self._most // 2 else self._strangers
        gives_way = next(iter(crowd))
        del crowd[gives_way]
        return gives_way
