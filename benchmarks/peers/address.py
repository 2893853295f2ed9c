"""Where the source and S3 are, for the programs beside this module; they run without anything of ours."""

import os


def part(name: str) -> str:
    """One part of the source's address: host, port, user, password or database."""
    return os.environ[f"BENCH_{name.upper()}"]


def url(scheme: str = "mysql") -> str:
    """The source's address. The password holds nothing that would have to be escaped."""
    place = f"{part('host')}:{part('port')}/{part('database')}"
    return f"{scheme}://{part('user')}:{part('password')}@{place}"


def s3() -> dict[str, str]:
    """S3's endpoint and keys, by boto3's names."""
    return {
        "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "region_name": os.environ["AWS_DEFAULT_REGION"],
    }
