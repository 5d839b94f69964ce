"""Fixtures of the adversaries."""

from __future__ import annotations

from tests.heap import collections_are_of_the_tests_own as collections_are_of_the_tests_own
