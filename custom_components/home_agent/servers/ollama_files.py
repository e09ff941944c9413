"""Which names stand for one model on Ollama: its scheduler knows it by its file."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
import logging
from typing import Final

from homeassistant.util import dt as dt_util

from .answers import Answer
from .errors import ModelNotFound, ModelServerError
from .ollama_answers import file_of
from .ollama_names import full_name

_LOGGER = logging.getLogger(__name__)

# A user may create a name again from another file. A name is read again after the first
# time if it stands for the file of another name, or for none; else after the second.
_SHARED_FOR: Final = timedelta(minutes=4)
_KNOWN_FOR: Final = timedelta(hours=1)


class ModelFiles:
    """The file that each name stands for, as /api/show reports it."""

    def __init__(self, show: Callable[[str], Awaitable[Answer]]) -> None:
        """Read files by show, which returns the answer of /api/show for a name.

        show raises a ModelServerError if the server fails.
        """
        self._show = show
        # By full name: the file, None if the server has no such name or does not
        # report its file; and when that was read.
        self._files: dict[str, tuple[str | None, datetime]] = {}

    def forget(self) -> None:
        """Read all files again when they are needed next."""
        self._files.clear()

    async def names_of(
        self, loaded: set[str], names: Collection[str]
    ) -> dict[str, frozenset[str]]:
        """Return which of the names stand for each loaded model.

        Several names may stand for one file, with different templates. It is loaded
        once, and /api/ps shows the name that loaded it (server/sched.go: its key is
        the file).
        """
        named = {
            model: {name for name in names if full_name(name) == full_name(model)}
            for model in loaded
        }
        others = set(names).difference(*named.values())
        if loaded and others:
            await self._read({*loaded, *others})
        for name in others:
            file = self._file(name)
            for model in loaded:
                if file is not None and file == self._file(model):
                    named[model].add(name)
        return {model: frozenset(found) for model, found in named.items()}

    def _file(self, name: str) -> str | None:
        """Return the file that a name stands for, None if that is not known."""
        file, _ = self._files.get(full_name(name), (None, None))
        return file

    def _read_again_at(self, name: str, now: datetime) -> datetime:
        """Return when to read the file of a name again, now if it was never read."""
        if (found := self._files.get(full_name(name))) is None:
            return now
        file, read_at = found
        files = [known for known, _ in self._files.values()]
        is_own = file is not None and files.count(file) == 1
        return read_at + (_KNOWN_FOR if is_own else _SHARED_FOR)

    async def _read(self, names: Iterable[str]) -> None:
        """Read the files of the names that were not read lately.

        A name whose file cannot be read now keeps the last one; the next call tries
        again.
        """
        now = dt_util.utcnow()
        for name in names:
            if now < self._read_again_at(name, now):
                continue
            try:
                file = file_of(await self._show(name))
            except ModelNotFound:
                file = None
            except ModelServerError as err:
                _LOGGER.debug("Cannot read the file of %s: %s", name, err.log_text)
                continue
            self._files[full_name(name)] = (file, now)
