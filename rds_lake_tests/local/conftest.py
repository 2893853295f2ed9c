"""The session's stack under a name that leaves `stack` to the module under test."""

import pytest

from rds_lake.local.stack import Stack


@pytest.fixture
def running(stack: Stack) -> Stack:
    return stack
