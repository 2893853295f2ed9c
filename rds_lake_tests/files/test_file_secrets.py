"""What a failure is recorded with: whatever went wrong over a password or a key, no record holds it."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import obstore
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from dropping import Drops
from obstore.exceptions import PermissionDeniedError
from rooms import Rooms

from rds_lake.audit_log.record import from_item
from rds_lake.errors import RdsLakeError
from rds_lake.lake.aws import aws_errors

pytestmark = pytest.mark.stack

PASSWORDS = ("wrong-secret-1", "it's \\a %s 'secret' =x", 'p@ss/wo:rd#"?', "Käse 美")
AWS_SECRETS = ("AKIAEXAMPLEEXAMPLE42", "FwoGZXIvYXdzEsession", "wJalrXUtnFEMIsecret")
SIGNED = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details.\n\nThe Canonical String for this request "
    f"should have been\n'POST\n/\n\nhost:glue\nx-amz-security-token:{AWS_SECRETS[1]}\n'\n\nThe String-to-Sign should "
    f"have been\n'AWS4-HMAC-SHA256\n{AWS_SECRETS[0]}/{AWS_SECRETS[2]}'\n"
)


def told(drops: Drops) -> str:
    """All that DynamoDB holds of a table, and what was said."""
    pages = drops.dynamodb.get_paginator("scan").paginate(TableName=drops.log.name)
    items = [item for page in pages for item in page["Items"]]
    records = [from_item(item) for item in items if "FileID" in item]
    assert any(record.error for record in records)
    return f"{items} {records} {drops.said}"


def feed(environ: Any) -> Drops:
    columns = [{"name": "id", "type": "bigint"}]
    return Drops.feed(environ, "f", columns=columns, key=["id"])


def wrong(drops: Drops, variable: str, change: Callable[[str], str]) -> Drops:
    """The same, with another address."""
    return Drops({**drops.environ, variable: change(drops.environ[variable])}, drops.spec, lease=timedelta(seconds=-1))


# Of an address where nobody is one password will do: each attempt takes seconds.
CASES = [
    (why, password)
    for why in ("a wrong password", "a wrong database", "a wrong option", "nobody there")
    for password in (PASSWORDS if why != "nobody there" else PASSWORDS[:1])
]


@pytest.mark.parametrize(("why", "password"), CASES)
@pytest.mark.parametrize("kind", ["zone", "feed"])
def test_no_record_holds_a_password_of_an_address(rooms: Rooms, kind: str, password: str, why: str) -> None:
    drops = Drops.zone(rooms.environ) if kind == "zone" else feed(rooms.environ)
    if kind == "zone":
        drops.schema("t", "id bigint")
        drops.run()
        drops.drop("append", "t", "a.csv", "id\n1\n")
    else:
        drops.source("a.csv", "id\n1\n")
    variable = "RDS_LAKE_WAREHOUSE_URL" if kind == "zone" else "RDS_LAKE_POSTGRES_URL"
    url = drops.url(variable)

    def changed(_: str) -> str:
        port = 9 if why == "nobody there" else url.port
        database = "none" if why == "a wrong database" else url.database
        options = "?nonsense=1" if why == "a wrong option" else ""
        scheme = "redshift" if kind == "zone" else "postgresql"
        return f"{scheme}://{url.user}:{quote(password, safe='')}@{url.host}:{port}/{database}{options}"

    broken = wrong(drops, variable, changed)
    said = ""
    try:
        broken.run()
    except RdsLakeError as error:
        said = str(error)
    text = said + told(broken)
    for form in (password, quote(password, safe=""), repr(password)[1:-1], url.password):
        assert form not in text


class Answer(AWSResponse):
    """An answer that did not come over the network."""

    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(url, 403, {"content-type": "application/xml"}, None)  # type: ignore[arg-type]
        self._content = content


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "ExpiredToken"])
@pytest.mark.parametrize("operation", ["CopyObject", "PutObject"])
def test_no_record_holds_what_s3_says_of_a_key(
    rooms: Rooms, operation: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = feed(rooms.environ)
    drops.source("a.csv", "id\n1\n")
    body = (
        f"<Error><Code>{code}</Code><Message>The signature is wrong.</Message><AWSAccessKeyId>{AWS_SECRETS[0]}"
        f"</AWSAccessKeyId><StringToSign>{AWS_SECRETS[1]}</StringToSign><CanonicalRequest>{AWS_SECRETS[2]}"
        "</CanonicalRequest></Error>"
    )
    if operation == "PutObject":

        def put(*_: object, **__: object) -> None:
            raise PermissionDeniedError(f"Server returned non-2xx status code: 403 Forbidden: {body}")

        monkeypatch.setattr(obstore, "put", put)
    else:
        answer = lambda request, **_: Answer(request.url, body.encode())  # noqa: E731
        drops.s3.meta.events.register(f"before-send.s3.{operation}", answer)
    with suppress(RdsLakeError):
        drops.run()
    text = told(drops)
    for secret in (*AWS_SECRETS, drops.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in text


@pytest.mark.parametrize("code", ["InvalidSignatureException", "SignatureDoesNotMatch", "AccessDeniedException"])
def test_what_a_service_repeats_of_a_request_is_left_out(code: str) -> None:
    error: Any = {"Error": {"Code": code, "Message": SIGNED}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    with pytest.raises(RdsLakeError) as caught, aws_errors("the Glue table orders"):
        raise ClientError(error, "GetTable")
    assert "does not match the signature you provided" in str(caught.value)
    assert not [secret for secret in AWS_SECRETS if secret in str(caught.value)]
