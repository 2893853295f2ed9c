"""What all tests share: an environment without the developer's own settings, and one running local stack."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_lake.local import stack as local_stack

OURS = ("RDS_LAKE_", "AWS_", "DAGSTER_")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    """Tests see no RDS_LAKE_*, AWS_* or DAGSTER_* variable of the shell that started them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS) and name != "AWS_CA_BUNDLE"]:
            patch.delenv(name)
        # Without these botocore would look for credentials on the network.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_stack.Stack]:
    """The local stack without the UI: `.home` and `.environ`. A stack that does not start fails the tests."""
    home: Path = tmp_path_factory.mktemp("stack") / "home"
    try:
        yield local_stack.up(home, ui=False)
    finally:
        local_stack.down(home)
