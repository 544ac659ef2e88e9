"""What schemathesis does not know by itself."""

import hypothesis
import schemathesis
from hypothesis import strategies as st

EMAIL_CHARS_MAX = 254

# Where CI is in the environment, hypothesis loads settings that come before those of the command.
hypothesis.settings.load_profile("default")


@schemathesis.serializer("text/csv")
def csv(context, value):
    return {"data": value if isinstance(value, bytes) else str(value).encode()}


@schemathesis.hook
def filter_case(context, case):
    """Nothing that is no HTTP (RFC 9110 section 5.5): it is refused unread, for all operations."""
    text = "".join(str(value) for value in (case.headers or {}).values())
    return not any(ord(char) < 32 and char != "\t" or char == "\x7f" for char in text)


def email(length):
    """One that is so long, with labels of at most 50 letters."""
    domain = max(3, length - 65)
    dots = range(1, domain - 1, 50)
    letters = ("." if at in dots else "b" for at in range(domain))
    return "a" * (length - 1 - domain) + "@" + "".join(letters)


# It looks for the longest email there may be by throwing shorter ones away, for half a minute. Here
# they are made by their length.
schemathesis.openapi.format(
    "email",
    st.one_of(st.just(EMAIL_CHARS_MAX), st.integers(5, EMAIL_CHARS_MAX)).map(email),
)
