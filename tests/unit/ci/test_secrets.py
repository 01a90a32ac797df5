"""Secrets are complete or named as missing, arrive as they are, and do not show."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from support.ci import hidden, secrets
from support.common import Failure

HOSTS = {"inventories/production/hosts.yml": "app_servers: {hosts: {web1: }}"}
LOGIN = {"BLUEGREEN_SSH_KEY": "k", "BLUEGREEN_KNOWN_HOSTS": "h"}


def test_a_missing_secret_is_named_with_the_place_that_needs_it() -> None:
    texts = HOSTS | {"group_vars/all/secrets.yml": "app_secrets: {K: '{{ vault_key }}'}\n# {{ vault_other }}\n"}
    with pytest.raises(Failure) as caught:
        secrets.require(secrets.gather({"BLUEGREEN_SSH_KEY": ""}), texts)
    assert caught.value.code == 3
    for said in ("3 secrets are missing", "BLUEGREEN_SSH_KEY", "BLUEGREEN_KNOWN_HOSTS", "BLUEGREEN_SECRET_KEY: group_"):
        assert said in str(caught.value)
    assert "OTHER" not in str(caught.value)


def test_a_vault_needs_its_password_and_no_other_secret() -> None:
    texts = HOSTS | {"inventories/production/vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n", "a.yml": "{{ vault_key }}"}
    given = secrets.gather(LOGIN)
    assert secrets.missing(given, texts) == ["BLUEGREEN_VAULT_PASSWORD: inventories/production/vault.yml is encrypted"]
    assert secrets.missing(secrets.gather(LOGIN | {"BLUEGREEN_VAULT_PASSWORD": "x"}), texts) == []


def test_an_inventory_with_its_own_key_needs_none() -> None:
    texts = {"hosts.yml": "ansible_ssh_private_key_file: id\nansible_ssh_common_args: -o UserKnownHostsFile=x"}
    assert secrets.missing(secrets.gather({}), texts) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"BLUEGREEN_SECRETS": "[1]"}, "must be a JSON object of texts"),
        ({"BLUEGREEN_SECRETS": '{"a b": "x"}'}, "BLUEGREEN_SECRET_a b is not known"),
        ({"BLUEGREEN_PASSWORD": "x"}, "BLUEGREEN_PASSWORD is not known"),
        ({"BLUEGREEN_SECRET_lower": "x"}, "BLUEGREEN_SECRET_lower is not known"),
        ({"BLUEGREEN_SSH_KEY": "x", "BLUEGREEN_SSH_KEY_FILE": "y"}, "are both given"),
        ({"BLUEGREEN_SSH_KEY_FILE": "/nowhere"}, "cannot be read: No such file or directory"),
    ],
)
def test_a_secret_that_cannot_be_meant_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(Failure, match=said):
        secrets.gather(given)


def test_several_secrets_can_stand_in_one() -> None:
    found = secrets.gather({"BLUEGREEN_SECRETS": '{"API_KEY": "a\\nb"}', "BLUEGREEN_SECRET_OTHER": "o"})
    assert found.values == {"vault_api_key": "a\nb", "vault_other": "o"}


def test_a_file_stands_for_a_value_and_the_name_for_a_variable() -> None:
    found = secrets.gather({"BLUEGREEN_SECRET_API_KEY_FILE": "/f"}, lambda name, path: f"{name} {path}")
    assert found.values == {"vault_api_key": "BLUEGREEN_SECRET_API_KEY_FILE /f"}


@given(st.text(st.characters(codec="utf-8")))
@example("0123")
@example("{{ 7 * 7 }}")
def test_a_value_arrives_as_it_is_and_is_no_template(text: str) -> None:
    from ansible.parsing.utils.yaml import from_yaml
    from ansible.template import is_trusted_as_template, trust_as_template

    found = from_yaml(trust_as_template(secrets.variables_file({"vault_x": text})))
    assert found == {"vault_x": text}
    assert not is_trusted_as_template(found["vault_x"])


VISIBLE = st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="*")


@given(st.text(VISIBLE, min_size=4))
def test_a_secret_is_hidden_however_it_is_quoted(text: str) -> None:
    redact = secrets.redacter(secrets.masks([text]))
    quoted = [text, json.dumps(text), json.dumps(json.dumps([text])), repr(text), json.dumps(repr([text]))]
    quoted += [shlex.quote(text), yaml.safe_dump(text, default_style="'", width=1 << 20), json.dumps(f"a{text}b")]
    for form in quoted:
        assert "***" in redact(form), form


def test_each_line_of_a_long_secret_is_hidden_but_not_its_frame() -> None:
    assert secrets.masks(["-----BEGIN-----\nline-one\n}\n", "x", ""]) == ["line-one", "x"]


def test_the_environment_of_the_second_run_holds_nothing_but_paths() -> None:
    given = {"PATH": "/bin", "LC_ALL": "C", "AWS_KEY": "s", "GITHUB_TOKEN": "s", "BLUEGREEN_SSH_KEY": "s"}
    given |= {"https_proxy": "http://192.0.2.1:3128", "HTTP_PROXY": "http://user:s@192.0.2.1"}
    assert hidden.split(given) == (
        {"PATH": "/bin", "LC_ALL": "C", "https_proxy": "http://192.0.2.1:3128"},
        {"BLUEGREEN_SSH_KEY": "s"},
    )


def test_a_vault_is_opened_to_hide_what_it_holds_and_a_wrong_password_is_said() -> None:
    from ansible.parsing.vault import VaultLib, VaultSecret

    plain = b"a: value-one\nb: {c: [value-two, 1234567]}\nd: !unsafe value-three\nport: 22\n"
    texts = {"v.yml": VaultLib([("default", VaultSecret(b"right"))]).encrypt(plain).decode()}
    assert secrets.open_vault(texts, "right").texts() == ["value-one", "value-two", "1234567", "value-three"]
    with pytest.raises(Failure, match=r"BLUEGREEN_VAULT_PASSWORD does not open v\.yml") as caught:
        secrets.open_vault(texts, "wrong")
    assert caught.value.code == 3


def test_single_values_in_a_vault_are_hidden_and_opened_first_too() -> None:
    from ansible.parsing.vault import VaultLib, VaultSecret

    vault = VaultLib([("default", VaultSecret(b"right"))])

    def inline(plain: str) -> str:
        lines = vault.encrypt(plain).decode().splitlines()
        return "!vault |\n" + "\n".join(f"          {line}" for line in lines)

    text = f"a: {inline('value: one')}\nplain: x\nb:\n  c: {inline('two lines' + chr(10) + 'of it')}\n# !vault |\n"
    assert secrets.open_vault({"main.yml": text}, "right").texts() == ["value: one", "two lines\nof it"]
    with pytest.raises(Failure, match=r"does not open main\.yml"):
        secrets.open_vault({"main.yml": text}, "wrong")


def test_an_encrypted_file_that_is_no_text_is_opened_all_the_same() -> None:
    from ansible.parsing.vault import VaultLib, VaultSecret

    texts = {
        "key.bin": VaultLib([("default", VaultSecret(b"right"))]).encrypt(b"\xff\xfe\0line-one\nline-two\n").decode()
    }
    assert "line-two" in secrets.open_vault(texts, "right").texts()


@pytest.mark.parametrize("vault", ["vault_key: x\nvault_last: y\n", '{"a": 1, "vault_key": "x", "vault_last": "y"}'])
def test_what_a_vault_lacks_is_named_once_it_is_open(vault: str) -> None:
    needs = "a: '{{ vault_key }}'\nb: '{{ vault_other }}'\nc: \"{{ vault_free | default('') }}\"\n"
    texts = HOSTS | {"group_vars/all/secrets.yml": needs, "v.yml": vault}
    given = secrets.gather(LOGIN | {"BLUEGREEN_VAULT_PASSWORD": "x"})
    assert secrets.missing(given, texts) == ["BLUEGREEN_SECRET_OTHER: group_vars/all/secrets.yml uses vault_other"]
    assert secrets.missing(given, texts | {"v.yml": "$ANSIBLE_VAULT;1.1;AES256\n"}) == [], "not known yet"
    single = texts | {"v.yml": f"{vault}\n" if vault[0] == "{" else f"{vault}vault_more: !vault |\n"}
    assert secrets.missing(given, single) == ["BLUEGREEN_SECRET_OTHER: group_vars/all/secrets.yml uses vault_other"]
