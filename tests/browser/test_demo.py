"""The demo as the README starts it."""

import re
import subprocess

from scripts.home_assistant import ROOT

from .house import House, free_port


def test_the_command_of_the_readme(house: House) -> None:
    """It starts, sets up Home Agent by its dialogs, and turns on a light.

    It uses the server of the test, since an Ollama at the usual port would be used.
    """
    blocks = re.findall(
        r"^```\n(.+?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (command,) = (
        line
        for block in blocks
        for line in block.splitlines()
        if line.startswith("scripts/demo")
    )
    options = ["--server", house.ollama.url, "--port", str(free_port())]
    result = subprocess.run(  # noqa: S603 - the README's own command
        [*command.split(), "--large", "--check", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the light is on" in result.stdout
    assert "Traceback" not in result.stderr
