"""The states of the library behind an accelerator meter, and what changes them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class State(Enum):
    """State of the library."""

    CLOSED = auto()
    """The next read opens it, once the back-off has passed."""
    OPEN = auto()
    RELEASING = auto()
    """To be closed on request: the close is queued, or a hung call holds the driver."""
    RELEASED = auto()
    FAILED = auto()
    """Only a new process can recover it."""

    def after(self, event: Event) -> State:
        """The next state. An event that the table does not list for a state leaves it as it is."""
        return TRANSITIONS.get((self, event), self)


class Event(Enum):
    """What happens to the library, in the worker or on request."""

    OPENED = auto()
    LOST = auto()
    LOST_FOR_GOOD = auto()
    CLOSED = auto()
    RELEASE = auto()
    RESUME = auto()


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.CLOSED, Event.OPENED): State.OPEN,
    (State.OPEN, Event.LOST): State.CLOSED,
    (State.OPEN, Event.CLOSED): State.CLOSED,  # resumed before the close had run
    (State.CLOSED, Event.RELEASE): State.RELEASING,
    (State.OPEN, Event.RELEASE): State.RELEASING,
    (State.RELEASING, Event.CLOSED): State.RELEASED,
    (State.RELEASING, Event.RESUME): State.CLOSED,
    (State.RELEASED, Event.RESUME): State.CLOSED,
    **{(state, Event.LOST_FOR_GOOD): State.FAILED for state in State},
}
