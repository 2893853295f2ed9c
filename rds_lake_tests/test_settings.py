"""Settings: addresses that never show their password, and an error with a remedy for each mistake."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import bounded

from rds_lake import settings
from rds_lake.errors import ConfigError
from rds_lake.settings import DatabaseUrl, parse_database_url, required

SECRET = "s3cr3t-W0rd"
VARIABLE = "RDS_LAKE_SOURCE_URL"


def parsed(text: str, scheme: str = "mysql") -> DatabaseUrl:
    return parse_database_url(text, scheme=scheme, variable=VARIABLE)


def test_a_url_is_taken_apart():
    url = parsed(f"mysql://anna:{SECRET}@db.example:3307/shop?ssl_ca=/etc/ca.pem&x=1")
    assert (url.scheme, url.host, url.port, url.user, url.password, url.database) == (
        "mysql",
        "db.example",
        3307,
        "anna",
        SECRET,
        "shop",
    )
    assert url.options == (("ssl_ca", "/etc/ca.pem"), ("x", "1"))
    assert url.address == "db.example:3307/shop"


@pytest.mark.parametrize(("scheme", "port"), [("mysql", 3306), ("redshift", 5439)])
def test_the_port_defaults_to_the_servers_own(scheme, port):
    assert parsed(f"{scheme}://u:p@h/d", scheme).port == port


def test_a_url_without_a_password_has_an_empty_one():
    assert parsed("mysql://u@h/d").password == ""


def test_no_text_form_of_an_address_shows_the_password():
    url = parsed(f"mysql://anna:{SECRET}@h/d?password={SECRET}")
    shown = [repr(url), str(url), f"{url}", f"{url!r:>100}", format(url), url.address, f"{[url]}"]
    assert shown[0] == "mysql://anna:***@h:3306/d"
    assert not any(SECRET in text for text in shown)


@bounded(150)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda name: name[0] != "/"),
)
def test_percent_encoded_user_password_and_database_come_back_as_they_were(user, password, database):
    url = parsed(f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@h/{quote(database, safe='')}")
    assert (url.user, url.password, url.database) == (user, password, database)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"postgres://u:{SECRET}@h/d", "starts with 'postgres:', not with 'mysql:'"),
        (f"mysql://:{SECRET}@h/d", "names no user"),
        (f"mysql://u:{SECRET}@/d", "names no host"),
        (f"mysql://u:{SECRET}@h", "names no database"),
        (f"mysql://u:{SECRET}@h/", "names no database"),
        (f"mysql://u:{SECRET}@h:port/d", "is not a URL"),
        (f"mysql://u:{SECRET}@h:99999/d", "is not a URL"),
        (f"mysql://u:{SECRET}@[::1/d", "is not a URL"),
        (f"mysql://u:{SECRET}/x@h/d", "is not a URL"),
        (f"u:{SECRET}@h/d", "starts with"),
        ("", "starts with"),
    ],
)
def test_each_mistake_in_a_url_is_named_with_its_remedy_and_without_the_password(text, problem):
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert problem in caught.value.problem
    assert VARIABLE in caught.value.problem
    assert caught.value.remedy == "Set it to mysql://user:password@host:3306/database (percent-encode the password)."
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("environ", [{}, {"RDS_LAKE_BUCKET": ""}])
def test_a_missing_variable_is_named_with_what_it_is_for(environ):
    with pytest.raises(ConfigError, match=r"RDS_LAKE_BUCKET is not set \(The lake's S3 bucket\)\..*rds-lake up"):
        required("RDS_LAKE_BUCKET", environ)


def test_a_variable_that_is_set_wins_over_its_default():
    assert required("RDS_LAKE_GLUE_DATABASE", {}) == "rds_lake"
    assert required("RDS_LAKE_GLUE_DATABASE", {"RDS_LAKE_GLUE_DATABASE": "mine"}) == "mine"


def test_home_is_where_the_variable_says_or_here():
    assert settings.home({}) == Path.cwd() / ".rds_lake"
    assert settings.home({"RDS_LAKE_HOME": "elsewhere"}) == Path.cwd() / "elsewhere"
    assert settings.home({"RDS_LAKE_HOME": "~/lake"}) == Path.home() / "lake"


def test_every_default_belongs_to_a_variable_that_is_described():
    assert settings.DEFAULTS.keys() <= settings.VARIABLES.keys()
    assert all(settings.VARIABLES.values())


def test_the_memory_for_rows_is_what_the_program_leaves():
    assert settings.memory_for_rows({}) == 60 * 1024 * 1024
    assert settings.memory_for_rows({"RDS_LAKE_MEMORY_MB": "341"}) == 1024 * 1024


@pytest.mark.parametrize("given_value", ["340", "0", "-1", "1.5", "much"])
def test_a_memory_that_leaves_nothing_for_rows_is_refused(given_value):
    with pytest.raises(ConfigError, match=f"RDS_LAKE_MEMORY_MB is '{given_value}'"):
        settings.memory_for_rows({"RDS_LAKE_MEMORY_MB": given_value})
