"""How the name of a model is shown to the user."""

import re
from typing import Final

_FOLDERS: Final = re.compile(r".*[/\\]")
_IS_PATH: Final = re.compile(r"(/|\./|~/|[A-Za-z]:[/\\]|\\\\)|.*\.gguf$", re.IGNORECASE)


def shown_model(name: str) -> str:
    """Return the name of a model; of a path to a file, only the file's name.

    llama.cpp names a model by its path unless it has an alias (tools/server).
    """
    if not _IS_PATH.match(name):
        return name
    file = re.sub(r"\.gguf$", "", _FOLDERS.sub("", name), flags=re.IGNORECASE)
    return file or name
