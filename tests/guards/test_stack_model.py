"""CleanupStack against a model of six lines: nested ``with`` blocks, kept as a list."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from lifecycle import CleanupStack
from lifecycle.errors import CleanupErrorGroup


class Fails(Exception):
    pass


class StackMachine(RuleBasedStateMachine):
    """Stacks that are filled, moved, unwound with and without an error, some of whose cleanups fail or
    suppress."""

    stacks = Bundle("stacks")

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[int] = []
        self.expected: list[int] = []
        self.model: dict[int, list[tuple[int, str]]] = {}
        self.all: list[CleanupStack] = []
        self.number = 0

    def _next(self) -> int:
        self.number += 1
        return self.number

    @rule(target=stacks)
    def make(self) -> CleanupStack:
        stack = CleanupStack()
        self.all.append(stack)
        self.model[id(stack)] = []
        return stack

    @rule(stack=stacks, kind=st.sampled_from(["plain", "fails"]))
    def callback(self, stack: CleanupStack, kind: str) -> None:
        number = self._next()

        def run() -> None:
            self.ran.append(number)
            if kind == "fails":
                raise Fails(number)

        stack.callback(run)
        self.model[id(stack)].append((number, kind))

    @rule(stack=stacks, kind=st.sampled_from(["plain", "fails", "swallows"]), push=st.booleans())
    def enter(self, stack: CleanupStack, kind: str, push: bool) -> None:
        number = self._next()
        machine = self

        class Manager:
            def __enter__(self) -> int:
                return number

            def __exit__(self, *details: Any) -> bool:
                machine.ran.append(number)
                if kind == "fails":
                    raise Fails(number)
                return kind == "swallows"

        if push:
            stack.push(Manager())
        else:
            assert stack.enter_context(Manager()) == number
        self.model[id(stack)].append((number, kind))

    @rule(target=stacks, stack=stacks)
    def pop_all(self, stack: CleanupStack) -> CleanupStack:
        moved = stack.pop_all()
        self.all.append(moved)
        self.model[id(moved)] = self.model[id(stack)]
        self.model[id(stack)] = []
        return moved

    @rule(stack=stacks)
    def defuse(self, stack: CleanupStack) -> None:
        assert stack.defuse() == len(self.model[id(stack)])
        self.model[id(stack)] = []

    @rule(stack=stacks, body=st.booleans())
    def unwind(self, stack: CleanupStack, body: bool) -> None:
        errors: list[object] = ["body"] if body else []
        for number, kind in reversed(self.model[id(stack)]):
            self.expected.append(number)
            if kind == "fails":
                errors.append(number)
            elif kind == "swallows":
                errors.clear()
        self.model[id(stack)] = []
        raised: list[object] = []
        try:
            with stack:
                if body:
                    raise Fails("body")
        except CleanupErrorGroup as group:
            raised = [error.args[0] for error in group.exceptions]
        except Fails as error:
            raised = [error.args[0]]
            assert errors == ["body"]
        assert raised == errors

    @precondition(lambda self: self.all)
    @invariant()
    def nothing_runs_by_itself(self) -> None:
        assert self.ran == self.expected
        for stack in self.all:
            assert len(stack) == len(self.model[id(stack)])

    def teardown(self) -> None:
        for stack in self.all:
            stack.defuse()


StackMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStack = StackMachine.TestCase
