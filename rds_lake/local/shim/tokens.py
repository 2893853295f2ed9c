"""SQL text to tokens and statements: where a string, a comment or a statement ends, and nothing about its meaning.

Pure. The tokens of a text, joined, are that text again, whatever it is: an unfinished string or comment simply
reaches to the end (PostgreSQL will complain about it, not we).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a token is."""

    BLANK = "blank"  # white space and comments
    STRING = "string"  # '..', E'..', $tag$..$tag$
    WORD = "word"  # a key word or an unquoted name
    NAME = "name"  # a quoted name
    NUMBER = "number"
    OTHER = "other"  # one character, or $1


@dataclass(frozen=True)
class Token:
    """A piece of SQL text."""

    kind: Kind
    text: str

    @property
    def word(self) -> str:
        """The word in upper case, or the single character; empty for a string or a quoted name."""
        return self.text.upper() if self.kind in (Kind.WORD, Kind.OTHER) else ""


# As PostgreSQL's scanner: white space is ASCII only, and every byte above 127 belongs to a name.
_LETTER = r"[A-Za-z_\u0080-\U0010ffff]"
_TOKEN = re.compile(
    rf"""
      (?P<blank>[ \t\n\r\f\v]+ | --[^\n\r]* )
    | (?P<comment>/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*+(?:'|\\?\Z) | '(?:[^']|'')*+(?:'|\Z) )
    | (?P<name>"(?:[^"]|"")*+(?:"|\Z))
    | (?P<dollar>\$(?:{_LETTER}(?:{_LETTER}|[0-9])*)?\$)
    | (?P<word>{_LETTER}(?:{_LETTER}|[0-9$])*)
    | (?P<number>[0-9](?:{_LETTER}|[0-9.])*)
    | (?P<other>\$[0-9]+ | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_KINDS = {
    "blank": Kind.BLANK,
    "comment": Kind.BLANK,
    "string": Kind.STRING,
    "dollar": Kind.STRING,
    "name": Kind.NAME,
    "word": Kind.WORD,
    "number": Kind.NUMBER,
    "other": Kind.OTHER,
}


def _comment_end(text: str, start: int) -> int:
    """Where the block comment that starts at `start` ends: comments nest."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def tokenize(text: str) -> Iterator[Token]:
    """The tokens of an SQL text, in order, blanks and comments included."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:  # cannot happen: `other` takes any character
            raise AssertionError(f"no token at {position}")
        end = match.end()
        if match.lastgroup == "comment":
            end = _comment_end(text, position)
        elif match.lastgroup == "dollar":
            closing = text.find(match.group(), end)
            end = len(text) if closing < 0 else closing + len(match.group())
        yield Token(_KINDS[match.lastgroup or "other"], text[position:end])
        position = end


def statements(text: str) -> list[list[Token]]:
    """The tokens of each statement; a statement's semicolon is its last token."""
    found: list[list[Token]] = [[]]
    for token in tokenize(text):
        found[-1].append(token)
        if token.text == ";" and token.kind is Kind.OTHER:
            found.append([])
    return [tokens for tokens in found if tokens]


def significant(tokens: Sequence[Token]) -> list[Token]:
    """The tokens without blanks, comments and semicolons."""
    return [t for t in tokens if t.kind is not Kind.BLANK and t.word != ";"]


def joined(tokens: Sequence[Token]) -> str:
    """The text of the tokens."""
    return "".join(t.text for t in tokens)


def unquoted_string(token: Token) -> str:
    """The value of a plain string literal.

    Raises:
        ValueError: it is no plain '..' literal.
    """
    text = token.text
    if token.kind is not Kind.STRING or text[0] != "'" or len(text) < 2 or text[-1] != "'":
        raise ValueError(f"{text} is not a plain string in single quotes")
    return text[1:-1].replace("''", "'")


def name_of(token: Token) -> str:
    """The name that a word or a quoted name stands for: lower case, as Redshift folds quoted names too."""
    if token.kind is Kind.NAME:
        return token.text[1:-1].replace('""', '"').lower()
    return token.text.lower()


def quoted(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def closing_parenthesis(tokens: Sequence[Token], opening: int) -> int:
    """The index of the parenthesis that closes the one at `opening`, or the length if none does."""
    depth = 0
    for index in range(opening, len(tokens)):
        word = tokens[index].word
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
            if depth == 0:
                return index
    return len(tokens)


def split_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    """The parts between top-level commas."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.word, 0)
        if token.word == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
