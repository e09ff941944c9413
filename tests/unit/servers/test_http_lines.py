"""The lines of a stream, cut at any byte."""

from itertools import pairwise

from hypothesis import given, strategies as st
import pytest

from custom_components.home_agent.servers.lines import LineSplitter, LineTooLong

BOM = b"\xef\xbb\xbf"
# Ends of lines for Python's text, but not for a stream: NEL, LS, PS, VT, FF, FS.
OTHER_ENDS = "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e"

texts = st.text(st.sampled_from("ab:{} \t\0é€😀\ufeff" + OTHER_ENDS), max_size=8)
ends = st.sampled_from(["\n", "\r\n", "\r"])


def split(chunks: list[bytes]) -> list[bytes]:
    """Return the lines of a stream that comes in chunks."""
    splitter = LineSplitter(1000)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    last = splitter.finish()
    return [*lines, last] if last else lines


@given(
    lines=st.lists(st.tuples(texts, ends)),
    last=texts,
    cuts=st.lists(st.integers(0, 100)),
    has_bom=st.booleans(),
)
def test_lines_do_not_depend_on_the_chunks(
    lines: list[tuple[str, str]], last: str, cuts: list[int], *, has_bom: bool
) -> None:
    """Any lines with any ends, cut anywhere, are the lines that were written."""
    stream = "".join(text + end for text, end in lines) + last
    data = BOM * has_bom + stream.encode()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[i:j] for i, j in pairwise(places)]
    written = [text.encode() for text, _ in lines] + [last.encode()]
    if not has_bom:
        written[0] = written[0].removeprefix(BOM)
    assert split(chunks) == [line.strip() for line in written if line.strip()]
    assert split([bytes([byte]) for byte in data]) == split([data])


@given(st.binary(), st.binary())
def test_any_bytes(one: bytes, two: bytes) -> None:
    """What comes in is neither lost nor changed, but for white space and one mark."""
    found = b"".join(split([one, two]))
    written = (one + two).removeprefix(BOM)
    assert b"".join(found.split()) == b"".join(written.split())


def test_a_crlf_that_is_cut() -> None:
    """The LF of it makes no line of its own."""
    assert split([b"a\r", b"\nb\r\n", b"\r", b"c\r"]) == [b"a", b"b", b"c"]


def test_lines_have_a_length() -> None:
    """A line that does not end is not collected indefinitely."""
    splitter = LineSplitter(5)
    assert list(splitter.feed(b"12345\n12345")) == [b"12345"]
    with pytest.raises(LineTooLong):
        list(splitter.feed(b"6"))
