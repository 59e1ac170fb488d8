"""Passwords and keys in options, which must not be saved with a run."""

import os
import re
from collections.abc import Sequence

# A password in a URL, a key in its query, an authorization header, and the known forms of keys; not "$NAME", which a shell
# replaces.
_SECRET = re.compile(
    r"://[^/\s@]*:(?!\$)[^/\s@]+@"
    r"|://\S*[?&]([\w.-]*(token|secret|passw|signature|credential|api_?key|access_?key)[\w-]*|sig|key|auth)=(?!\$)[^&\s]"
    r"|authorization:\s*\w+\s+(?!\$)\S"
    r"|\b(hf_\w{30,}|gh[pousr]_\w{30,}|AKIA[0-9A-Z]{16})\b",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET_KEY = re.compile(r"(api_?key|access_?key|password|passwd|secret|token)$", re.IGNORECASE)


def is_secret(key: str, text: str) -> bool:
    """Return True if the value of an option holds a password, a key or a token.

    Args:
        key: full name of the option; empty if it is not known.
        text: its value; one that starts with ``$`` names a variable of the environment.
    """
    if _SECRET_KEY.search(key) and text and not text.startswith("$"):
        return True
    known = (value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= 16)
    return bool(_SECRET.search(text)) or any(secret in text for secret in known)


def redact(arguments: Sequence[str]) -> list[str]:
    """Replace the secrets in the arguments of a command by ``***``."""
    shown, key = [], ""
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        if is_secret(option or key, value):
            argument = f"{option}{equals}***"
        shown.append(argument)
        key = "" if equals else option
    return shown
