"""Tests of what is taken from the body of an error."""

import json
from typing import Any

import pytest

from custom_components.home_agent.servers.refusals import error_text

PROMPT = "You are in a secret house"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": "no such model"}, "no such model"),
        ({"error": {"message": "no", "param": "keep_alive"}}, "no (keep_alive)"),
        (
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "keep_alive"],
                        "msg": "Extra inputs are not permitted",
                        "input": [{"role": "system", "content": PROMPT}],
                    }
                ]
            },
            "body.keep_alive: Extra inputs are not permitted",
        ),
        ({"errors": [{"message": "one"}, "two"]}, "one; two"),
        (
            {"message": {"detail": [{"loc": ["body", "keep_alive"], "msg": "extra"}]}},
            "body.keep_alive: extra",
        ),
        ({"request": {"messages": [PROMPT]}}, ""),
        ([{"error": {"message": "listed"}}], "listed"),
        ({"detail": 5}, ""),
        ([], ""),
    ],
)
def test_only_the_reason_is_taken(body: Any, text: str) -> None:
    """A server may repeat the request, and with it the prompt."""
    assert error_text(json.dumps(body)) == text


def test_a_body_that_is_no_json_is_taken_whole() -> None:
    """It is the page of a proxy, or a line of text."""
    assert error_text("404 page not found") == "404 page not found"
