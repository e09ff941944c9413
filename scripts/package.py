"""Pack the integration for a release.

    python3 -m scripts.package v1.2.3 home_agent.zip

Only Python's standard library is needed.
"""

import argparse
import json
from pathlib import Path
import re
import sys
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile

PACKAGE: Final = Path(__file__).parent.parent / "custom_components" / "home_agent"
# What Home Assistant accepts as the version of a custom integration, and GitHub
# users write as a tag: 1.2.3, v1.2.3, v1.2.3b1, v1.2.3-rc1.
_TAG: Final = re.compile(r"v?(\d+\.\d+\.\d+(?:-?(?:a|b|rc)\d+)?)")


def version_of(tag: str) -> str:
    """Return the version that a release's tag names.

    Raise ValueError if the tag is not a version.
    """
    if (match := _TAG.fullmatch(tag)) is None:
        raise ValueError(f"{tag!r} is not a version: name the tag like v1.2.3")
    return match[1]


def pack(version: str, to: Path) -> None:
    """Write a zip file with the integration, and version in its manifest.

    Its files lie at the top: Home Assistant's Marketplace and HACS extract the
    file into the integration's folder.
    """
    manifest = json.loads((PACKAGE / "manifest.json").read_text(encoding="utf-8"))
    manifest["version"] = version
    with ZipFile(to, "w", ZIP_DEFLATED) as archive:
        for path in sorted(PACKAGE.rglob("*")):
            name = path.relative_to(PACKAGE).as_posix()
            if name == "manifest.json":
                archive.writestr(name, json.dumps(manifest, indent=2) + "\n")
            elif path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, name)


def main() -> None:
    """Pack what the command line says."""
    parser = argparse.ArgumentParser(description="Pack Home Agent for a release")
    parser.add_argument("tag", help="the tag of the release, such as v1.2.3")
    parser.add_argument("to", type=Path, help="the zip file to write")
    options = parser.parse_args()
    try:
        pack(version_of(options.tag), options.to)
    except ValueError as err:
        sys.exit(str(err))


if __name__ == "__main__":
    main()
