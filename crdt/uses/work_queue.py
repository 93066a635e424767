"""Tasks that workers take one by one: what one that dies has taken, another one takes.

A task is done at least once. Two workers that do not hear of each other may take the same one;
whoever began first holds it wherever both are known, and the other sees that it does not (see
:meth:`WorkQueue.is_mine`). What a task does should bear being done twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import Plain
from lattica.crdt.types.payloads import MAX_TERM
from lattica.crdt.uses.shape import DocumentLike, check_document, checked_part
from lattica.nat.base.checks import check_count, check_seconds, check_type

TERM: Final = 30.0
"""Seconds for which a task is taken before it has to be renewed."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do."""

    id: str
    payload: Plain
    attempts: int
    """How often it was taken, this time included."""


class WorkQueue:
    """A queue in a document.

    Args:
        name: of the queue; a document can have several.
        term: seconds that a worker has before it has to renew: one that is silent for so long
            loses its task to another.
        max_attempts: a task that was taken so often without a result is given up (:meth:`failed`).
    """

    def __init__(
        self,
        document: DocumentLike,
        name: str = "jobs",
        *,
        term: float = TERM,
        max_attempts: int = 5,
    ) -> None:
        check_document(document)
        self._document = document
        self._name = checked_part(name, "a queue")
        check_seconds("term", term, MAX_TERM / 1000)
        check_count("max_attempts", max_attempts)
        self._term = term
        self._max_attempts = max_attempts

    def add(self, task_id: str, payload: Plain = None) -> None:
        """Have something done; nothing happens if there is a task with this ID.

        Raises:
            LocalProtocolError: the ID is empty or has a slash in it, or the payload is none.
        """
        if not self._is_there(task_id):
            self._document.registers[self._place("tasks", task_id)] = [payload]

    def take(self) -> Task | None:
        """Take a task that nobody holds and that has no result; None if there is none."""
        claims, mine = self._document.claims(self._name), self._document.author
        # In an order of this node's own, so that two that look at the same time seldom take the
        # same one.
        undone = sorted(self._undone(), key=lambda each: hash((mine, each[0])))
        for task_id, payload in undone:
            if self._is_waiting(task_id) and claims.claim(task_id, self._term):
                attempts = self._document.counter(self._place("attempts", task_id))
                attempts.add(1)
                return Task(task_id, payload, attempts.value)
        return None

    def is_mine(self, task: Task) -> bool:
        """Whether this node still holds a task, as far as is known here. Worth a look when the
        others have had a moment to be heard of, and before a result is told.
        """
        return self._document.claims(self._name).is_held(_id(task))

    def renew(self, task: Task) -> bool:
        """Hold a task for another term; False if another one has it now."""
        return self._document.claims(self._name).claim(_id(task), self._term)

    def finish(self, task: Task, result: Plain = None) -> bool:
        """Tell a task's result; False, and nothing is told, if it has one, or was removed."""
        task_id = _id(task)
        if self.result(task_id) is not None or not self._is_there(task_id):
            return False
        self._document.registers[self._place("results", task_id)] = [result]
        self._document.claims(self._name).release(task_id)
        return True

    def give_back(self, task: Task) -> None:
        """Do not do a task after all: another one takes it at once."""
        self._document.claims(self._name).release(_id(task))

    def remove(self, task_id: str) -> bool:
        """Have a task be there no more, done or not, nor its result; whether it was there. Who has
        taken it finishes it in vain.
        """
        places = [self._place(what, task_id) for what in ("tasks", "results")]
        found = [each for each in places if self._document.registers.get(each) is not None]
        for each in found:
            self._document.registers[each] = None
        return bool(found)

    def _is_there(self, task_id: str) -> bool:
        return self._document.registers.get(self._place("tasks", task_id)) is not None

    def result(self, task_id: str) -> list[Plain] | None:
        """A task's result, in a list; None if there is none yet."""
        value = self._document.registers.get(self._place("results", task_id))
        return [*value] if isinstance(value, list) else None

    def results(self) -> dict[str, Plain]:
        """Of each task that is done, what came out."""
        return self._values("results")

    def tasks(self) -> dict[str, Plain]:
        """All tasks, done or not, and what is to be done."""
        return self._values("tasks")

    def waiting(self) -> list[str]:
        """Tasks that nobody holds and that have no result."""
        return [each for each, _ in self._undone() if self._is_waiting(each)]

    def failed(self) -> list[str]:
        """Tasks that were taken as often as may be, and have no result."""
        return [each for each, _ in self._undone() if self._is_given_up(each)]

    def _undone(self) -> list[tuple[str, Plain]]:
        done = self.results()
        return [each for each in self.tasks().items() if each[0] not in done]

    def _is_waiting(self, task_id: str) -> bool:
        """Whether a task without a result may be taken."""
        holder = self._document.claims(self._name).holder(task_id)
        return holder is None and not self._is_given_up(task_id)

    def _is_given_up(self, task_id: str) -> bool:
        attempts = self._document.counter(self._place("attempts", task_id)).value
        return attempts >= self._max_attempts

    def _values(self, what: str) -> dict[str, Plain]:
        found = self._document.registers.below(self._prefix(what))
        return {name: value[0] for name, value in found if isinstance(value, list) and value}

    def _prefix(self, what: str) -> str:
        return f"queues/{self._name}/{what}/"

    def _place(self, what: str, task_id: str) -> str:
        return self._prefix(what) + checked_part(task_id, "a task's ID")


def _id(task: Task) -> str:
    check_type("task", task, Task, "a Task, as `take` gives it")
    return task.id
