"""The listener's connections, and the choice of the one to close where there are too many."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Connections(Generic[T]):
    """The connections of a listener; no I/O.

    A connection is a stranger until it has shown a valid token. Of the idle connections the oldest stranger is closed:
    a genuine caller shows its token at once, and turning new ones away would let silent connections block the listener.
    A reverse proxy keeps its connection for the next callback: known connections stay until they are more than half of
    all; then the one idle longest is closed, so that there is always room to become known. A connection whose request
    is being answered is never closed.

    Args:
        most: The most idle connections.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._strangers: dict[T, None] = {}
        self._known: dict[T, None] = {}
        self._answered: set[T] = set()

    @property
    def idle(self) -> list[T]:
        """List the idle connections, strangers before known ones, each by age."""
        return [*self._strangers, *self._known]

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._strangers) + len(self._known) + len(self._answered)

    def come(self, connection: T) -> T | None:
        """Count a new connection; return the one to close for it, if any."""
        self._strangers[connection] = None
        return self._surplus()

    def show_token(self, connection: T) -> None:
        """Record that a connection has shown a token."""
        if connection in self._strangers:
            del self._strangers[connection]
            self._known[connection] = None

    def begin_answer(self, connection: T) -> None:
        """Protect a connection from being closed."""
        if connection in self._known:
            del self._known[connection]
            self._answered.add(connection)

    def end_answer(self, connection: T) -> T | None:
        """Count a connection as idle again; return the one to close for it, if any."""
        if connection in self._answered:
            self._answered.discard(connection)
            self._known[connection] = None
        return self._surplus()

    def go(self, connection: T) -> None:
        """Forget a closed connection."""
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
