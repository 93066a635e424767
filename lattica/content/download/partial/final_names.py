"""Giving finished files their names, below the directory that is fetched into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from lattica.content.disk import ATTEMPTS, open_below, open_regular, storage_error, sync_directory
from lattica.content.download.local.former import Chosen, OtherFile, beside
from lattica.content.download.local.obstacles import remove_obstacles
from lattica.content.download.partial.private_directory import PrivateDirectory
from lattica.content.download.plan import Plan


class FinalNames:
    """Of the outputs of a plan, whose unfinished files have their numbers as names.

    What lies where an output, or its directory, belongs is removed if `may_go` says so of all of
    it; `removed` has what was. What the plan has is never removed: while one file waits for its
    name, another one may have got its own in the place of what was in the way of both.
    """

    def __init__(
        self, plan: Plan, out_dir: Path, unfinished: PrivateDirectory, may_go: Chosen | None
    ) -> None:
        self._plan = plan
        self._out_dir = out_dir
        self._unfinished = unfinished
        self._may_go = may_go and beside(plan, may_go)
        self._named_in: set[tuple[str, ...]] = set()
        """The directories in which files were given their names, by their parts."""
        self.removed: list[OtherFile] = []

    def open(self, output: int) -> int:
        """The file that has an output's name. Raises :class:`OSError`."""
        with self._place(output) as (place, name):
            descriptor = open_regular(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=place)
        self._note(output)
        return descriptor

    def status(self, output: int) -> os.stat_result | None:
        """Of what has an output's name; None: nothing has. Raises :class:`OSError`."""
        try:
            with self._place(output) as (place, name):
                return os.stat(name, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def give(self, output: int, descriptor: int) -> bool:
        """Rename an unfinished file; False if it is gone. Raises :class:`OSError`."""
        for _ in range(ATTEMPTS):
            if self._may_go is not None:
                path = self._plan.outputs[output].path
                self.removed += remove_obstacles(self._out_dir, path, self._may_go)
            with (
                suppress(FileNotFoundError),
                self._place(output, make=True) as (place, name),
                self._unfinished.entered() as unfinished,
            ):
                os.replace(str(output), name, src_dir_fd=unfinished, dst_dir_fd=place)
                self._note(output)
                break
            if not os.fstat(descriptor).st_nlink:
                return False
        return True

    def sync(self) -> None:
        """Sync the directories in which files were given their names: once each, and not for each
        file. What a crash of the machine takes back before is in the journal.

        Raises :class:`StorageError`.
        """
        named_in, self._named_in = self._named_in, set()
        for above in {parts[:depth] for parts in named_in for depth in range(len(parts) + 1)}:
            try:
                sync_directory(self._out_dir, above)
            except FileNotFoundError:
                pass  # removed by somebody else since
            except OSError as error:
                raise storage_error(error, self._out_dir.joinpath(*above)) from None

    def _note(self, output: int) -> None:
        self._named_in.add(PurePosixPath(self._plan.outputs[output].path).parent.parts)

    @contextmanager
    def _place(self, output: int, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory where a finished file belongs, as a descriptor, and its name there."""
        *above, name = PurePosixPath(self._plan.outputs[output].path).parts
        place = open_below(self._out_dir, above, make=make)
        try:
            yield place, name
        finally:
            os.close(place)
