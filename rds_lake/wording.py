"""How messages count: the one place that knows singular from plural."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with what is counted: `1 row`, `2 rows`.

    Args:
        number: how many there are.
        one: what follows a one.
        many: what follows any other number, if it is not the same with an `s`.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
