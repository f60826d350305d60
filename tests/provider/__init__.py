"""Tests of the provider package, and the stand-in for LeadExec's server that other tests call."""

from .stand_in import (
    Answer,
    Provider,
    disconnected,
    fresh,
    fresh_until,
    http,
    refused,
    reset,
    throttling,
    unavailable,
)

__all__ = [
    "Answer",
    "Provider",
    "disconnected",
    "fresh",
    "fresh_until",
    "http",
    "refused",
    "reset",
    "throttling",
    "unavailable",
]
