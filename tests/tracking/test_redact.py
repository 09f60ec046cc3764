"""No secret reaches MLflow."""

import pytest

from hmoe.tracking.redact import REDACTED, redact, redact_command

ENVIRONMENT = {"HF_TOKEN": "hf_abcdefgh1234", "HOME": "/home/somebody", "PASSWORD_MODE": "off"}


@pytest.mark.parametrize("key", ["api_token", "password", "DB_PASSWD", "client_secret", "apiKey"])
def test_text_under_a_secret_key_is_redacted(key):
    assert redact({"a": [{key: "x"}]}, {}) == {"a": [{key: REDACTED}]}


def test_everything_below_a_secret_key_is_redacted():
    assert redact({"secret": {"user": "me", "pin": [1]}}, {}) == {
        "secret": {"user": REDACTED, "pin": [REDACTED]}
    }


def test_counts_of_tokens_and_tokenizers_are_no_secrets():
    config = {"tokens": 4096, "tokenizer": "bytes", "cost": {"tokens": 1.5}, "use_token": True}
    assert redact(config, {}) == config


def test_what_reads_the_environment_is_redacted():
    config = {"root": "${oc.env:HMOE_DATA}/x", "name": "${env:USER,me}", "lr": "${optim.lr}"}
    assert redact(config, {}) == {"root": REDACTED, "name": REDACTED, "lr": "${optim.lr}"}


def test_values_of_secret_variables_are_redacted_wherever_they_turn_up():
    config = {"url": "https://x/?k=hf_abcdefgh1234", "root": "/home/somebody", "mode": "off"}
    assert redact(config, ENVIRONMENT) == {**config, "url": REDACTED}


def test_passwords_in_addresses_are_redacted():
    assert redact("postgresql://me:pw@host/db", {}) == f"postgresql://me:{REDACTED}@host/db"


def test_a_command_without_secrets_stays_as_it_was_typed():
    command = "hmoe train 'tree.spec={a: 2, b: 3}' data.tokens=12  seed=1"
    assert redact_command(command, ENVIRONMENT) == command


def test_secrets_in_a_command_are_redacted():
    command = "API_TOKEN='a b' hmoe train seed=1 +data.password=12 url=x/hf_abcdefgh1234"
    expected = f"API_TOKEN={REDACTED} hmoe train seed=1 +data.password={REDACTED} url={REDACTED}"
    assert redact_command(command, ENVIRONMENT) == expected
