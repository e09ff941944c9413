"""Stand-ins for model servers: real HTTP on loopback, for the tests and the demo."""

from .brain import RuleBrain
from .chat import ChatCall, Reply, ToolUse
from .clock import Clock, ManualClock
from .ollama import OllamaStandIn, StandInModel
from .openai import OpenAIStandIn

__all__ = [
    "ChatCall",
    "Clock",
    "ManualClock",
    "OllamaStandIn",
    "OpenAIStandIn",
    "Reply",
    "RuleBrain",
    "StandInModel",
    "ToolUse",
]
