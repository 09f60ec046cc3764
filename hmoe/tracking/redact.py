"""Taking secrets out of what is stored: configurations, results and commands.

MLflow is read by others than the one who trained. Redacted are values under a key that speaks of a
secret, values that read the environment, values that hold what a variable named as a secret holds
(hf_token resolved into a harmless-looking key), and passwords inside addresses. `hmoe.config` has
redacted resolved interpolations before; this is the second lock.
"""

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

REDACTED = "REDACTED"
_SECRET_KEY = re.compile(r"secret|passw|credential|api_?key|private_?key|access_?key", re.I)
# Counts of tokens and the choice of a tokenizer are no secrets; other text under such a key may be.
_TOKEN_KEY = re.compile(r"token(?!i[sz])", re.I)
_INTERPOLATION = re.compile(r"\$\{\s*(oc\.)?env\b")
_ADDRESS = re.compile(r"(\w+://[^\s:/@]*):[^\s/@]+@")
# Shorter values of variables ("1", "off") meet innocent settings by chance.
_MIN_LENGTH = 8


def redact(value: Any, environment: Mapping[str, str] = os.environ, key: str = "") -> Any:
    """A copy of nested mappings and lists with every secret replaced by `REDACTED`."""
    if isinstance(value, Mapping):
        inherited = key if _is_secret(key) else None
        return {k: redact(v, environment, inherited or str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v, environment, key) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEY.search(key):
        return REDACTED
    if not isinstance(value, str):
        return value
    if _TOKEN_KEY.search(key) or _INTERPOLATION.search(value):
        return REDACTED
    if any(secret in value for secret in _secrets(environment)):
        return REDACTED
    return _ADDRESS.sub(rf"\1:{REDACTED}@", value)


def redact_command(command: str, environment: Mapping[str, str] = os.environ) -> str:
    """A shell command with the secret values of its `key=value` words replaced."""
    try:
        words = shlex.split(command)
    except ValueError:  # an open quotation mark: not a command line, but it may hold secrets
        words = command.split()
    clean = [_redact_word(word, environment) for word in words]
    return command if clean == words else shlex.join(clean)


def _redact_word(word: str, environment: Mapping[str, str]) -> str:
    key, equals, value = word.partition("=")
    number = re.fullmatch(r"[\d.]+", value) and not _SECRET_KEY.search(key)
    if not equals or number:
        return str(redact(word, environment))
    return f"{key}={redact(value, environment, key)}"


def _is_secret(key: str) -> bool:
    return bool(_SECRET_KEY.search(key) or _TOKEN_KEY.search(key))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of variables whose names speak of a secret."""
    return [v for k, v in environment.items() if len(v) >= _MIN_LENGTH and _is_secret(k)]
