"""Secrets leave no error text, however a server writes or cuts them."""

import base64
import json

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.servers.errors import ModelServerError
from custom_components.home_agent.servers.http import HttpClient
from custom_components.home_agent.servers.redaction import Redactor
from tests.servers.raw import RawServer, http_answer

KEY = "sk-Ab/Cd+Ef&Gh=Secret99"
PLAIN_KEY = "s3cr3tvalue99"


def _bearer(key: str) -> dict[str, str]:
    """Return the header that has a key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("headers", "written"),
    [
        # PHP, .NET, an escape for every character, JSON inside JSON, Python, HTML.
        (_bearer(KEY), KEY.replace("/", "\\/")),
        (_bearer("a/b9x7q"), "a\\/b9x7q"),
        (_bearer("k1+Secret"), "k1\\u002BSecret"),
        ({"X-Auth": "tok+Secret99&x"}, "tok\\u002bSecret99\\u0026x"),
        (_bearer(KEY), "".join(f"\\u{ord(char):04X}" for char in KEY)),
        (_bearer('a"b\\nSecret'), json.dumps(json.dumps('a"b\\nSecret'))[3:-3]),
        (_bearer(KEY), KEY.replace("+", "\\x2b")),
        (_bearer(KEY), KEY.replace("+", "&#43;").replace("&Gh", "&#x26;Gh")),
        (_bearer(KEY), KEY.replace("+", "%252B").replace("/", "%2f")),
        (_bearer("pass😀Secret"), "pass\\ud83d\\ude00Secret"),
        (_bearer("%41Secret"), "%2541Secret"),
        (_bearer(KEY), KEY.encode().hex()),
        # A scheme that is not echoed.
        ({"Authorization": f"ApiKey {PLAIN_KEY}"}, PLAIN_KEY),
        ({"Authorization": "Token x7"}, "x7"),
        ({"X-Token": f"Token {PLAIN_KEY}"}, PLAIN_KEY),
        (_bearer(f"Bearer {PLAIN_KEY}"), PLAIN_KEY),
        ({"api-key": f"Bearer {PLAIN_KEY}"}, PLAIN_KEY),
        # Parts of a header.
        ({"Cookie": f"session={PLAIN_KEY}; theme=dark"}, PLAIN_KEY),
        ({"Cookie": f"theme=dark; session={PLAIN_KEY}"}, PLAIN_KEY),
        ({"X-Auth": f'user=me, response="{PLAIN_KEY}"'}, PLAIN_KEY),
        # White space.
        ({"X-Token": "pass  word secret"}, "pass word secret"),
        ({"X-Token": "pass  word secret"}, "pass\\u0020word+secret"),
    ],
)
def test_every_way_to_write_a_secret(headers: dict[str, str], written: str) -> None:
    """The text around it stays as it is."""
    text = Redactor(headers).redact(f"dark 100% \\o/ &lt; bad {written} key")
    assert text == "dark 100% \\o/ &lt; bad *** key"


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("s3cr3t-path", "/s3cr3t-path"),
        ("s3cr3t-path", "%2Fs3cr3t-path"),
        ("s3cr3t-path", "\\/s3cr3t-path"),
        ("home/s3cr3t-path", "/home/s3cr3t-path"),
        ("abc", "/abc"),
        ("abc", "\\/abc"),
    ],
)
def test_the_path_of_an_address(path: str, written: str) -> None:
    """A short part is removed where it is a part of a path, and not in a sentence."""
    text = Redactor({}, path=path).redact(f"abc home: POST {written}/v1/abcd")
    shown = text.replace("\\***", "***").replace("******", "***")
    assert shown == "abc home: POST ***/v1/abcd"
    long = "home/s3cr3t-path"
    assert Redactor({}, path=long).redact("no s3cr3t-path") == "no ***"


def test_a_basic_header_that_is_no_base64_is_a_secret_too() -> None:
    """Somebody may have entered the password itself."""
    assert Redactor({"Authorization": "Basic pässword"}).redact("pässword") == "***"
    pair = base64.b64encode(b"user:pa55word").decode()
    assert Redactor({"X": f"Basic {pair}"}).redact(f"pa55word {pair}") == "*** ***"


@pytest.mark.parametrize("kept", [3, 16, 20])
async def test_a_cut_error_shows_no_part_of_a_secret(
    hass: HomeAssistant, kept: int
) -> None:
    """The bound of an error body may lie within a secret."""
    secret = "s3cr3tvalue99AAAABBBB"
    body = b"x" + b" " * (64 * 2**10 - 1 - kept) + secret.encode()
    async with RawServer.of(http_answer(body, status="400 Bad")).serve() as url:
        session = async_get_clientsession(hass)
        http = HttpClient(session, url, {"X-Token": secret}, 20.0)
        with pytest.raises(ModelServerError) as caught:
            await http.get(url)
    assert caught.value.detail == "x"
