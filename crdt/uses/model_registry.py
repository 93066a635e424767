"""Which versions of which models there are, where their content is, and which one is in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lattica.crdt.base.canonical import Plain
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.uses.shape import DocumentLike, as_info, check_document, checked_part
from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId

_ROOT: Final = "models"
_MAX_BEFORE: Final = 32


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model."""

    model: str
    version: str
    content: str
    """What it is fetched by: a content ID, or a ticket."""
    info: Mapping[str, Plain] = field(default_factory=dict)
    published_by: PeerId | None = None
    """Who has signed it; None if that is not known here."""
    published_at: int = 0
    """Milliseconds since 1970, by that peer's clock."""


class ModelRegistry:
    """Names, versions and what is in use, in a document.

    ::

        registry = ModelRegistry(document)
        registry.publish("chat", "7", ticket)
        registry.promote("chat", "7")
        registry.current("chat").content

    What a version is does not change once it is published; who publishes one twice with other
    content is refused, and of two who do so at the same time the later one counts.
    """

    def __init__(self, document: DocumentLike) -> None:
        check_document(document)
        self._document = document

    def publish(
        self, model: str, version: str, content: str, info: Mapping[str, Plain] | None = None
    ) -> ModelVersion:
        """Add a version.

        Raises:
            LocalProtocolError: a name is empty or has a slash in it, or this version is there with
                other content.
        """
        check_type("content", content, str, "a content id, as text")
        place = _version_place(model, version)
        known = self._read(model, version)
        if known is not None and known.content != content:
            raise LocalProtocolError(f"version {version!r} of {model!r} has other content")
        if known is None:
            self._document.registers[place] = {"content": content, "info": as_info(info)}
        found = self._read(model, version)
        assert found is not None
        return found

    def models(self) -> list[str]:
        """The models that have versions, in order."""
        names = {name.partition("/")[0] for name, _ in self._below("")}
        return sorted(names)

    def versions(self, model: str) -> list[ModelVersion]:
        """The versions of a model, the oldest first."""
        prefix = f"{checked_part(model, 'a model')}/versions/"
        found = (self._read(model, version) for version, _ in self._below(prefix))
        return sorted(
            (each for each in found if each is not None),
            key=lambda each: (each.published_at, each.version),
        )

    def promote(self, model: str, version: str) -> ModelVersion:
        """Have a version be the one in use.

        Raises:
            LocalProtocolError: there is no such version.
        """
        found = self._read(model, version)
        if found is None:
            raise LocalProtocolError(f"{model!r} has no version {version!r}")
        before = self._history(model)
        if before[:1] != [version]:
            history = [version, *before][:_MAX_BEFORE]
            self._document.registers[_current_place(model)] = history
        return found

    def roll_back(self, model: str) -> ModelVersion:
        """Have the version be in use that was before the one that is.

        Raises:
            LocalProtocolError: there was none.
        """
        history = self._history(model)
        if len(history) < 2:
            raise LocalProtocolError(f"no version of {model!r} was in use before")
        self._document.registers[_current_place(model)] = history[1:]
        found = self.current(model)
        if found is None:
            raise LocalProtocolError(f"{model!r} has no version {history[1]!r} any more")
        return found

    def current(self, model: str) -> ModelVersion | None:
        """The version in use; None if none was promoted."""
        history = self._history(model)
        return self._read(model, history[0]) if history else None

    def _below(self, prefix: str) -> list[tuple[str, Plain]]:
        return self._document.registers.below(f"{_ROOT}/{prefix}")

    def _history(self, model: str) -> list[str]:
        value = self._document.registers.get(_current_place(model))
        if not isinstance(value, list):
            return []
        return [each for each in value if isinstance(each, str)]

    def _read(self, model: str, version: str) -> ModelVersion | None:
        writes = self._document.registers.conflicts(_version_place(model, version))
        if not writes:
            return None
        newest = writes[0]
        match newest.value:
            case {"content": str(content), "info": dict(info)}:
                by = self._document.peer_of(newest.author)
                return ModelVersion(model, version, content, info, by, milliseconds_of(newest.hlc))
        return None  # somebody wrote something else there


def _version_place(model: str, version: str) -> str:
    name = checked_part(model, "a model")
    return f"{_ROOT}/{name}/versions/{checked_part(version, 'a version')}"


def _current_place(model: str) -> str:
    return f"{_ROOT}/{checked_part(model, 'a model')}/current"
