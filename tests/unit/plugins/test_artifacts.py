"""Which artifact a sha or a name means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.module_utils import bluegreen_artifacts as artifacts

HEX = "0123456789abcdef"
SHA1 = "abc123" + "0" * 34
SHA2 = "abc124" + "1" * 34
STEM1 = f"orders-{SHA1}-11111111"
STEM2 = f"orders-{SHA2}-11111111"


ArtifactError = artifacts.ArtifactError


def manifest(stem: str, built_at: str = "2026-01-01T00:00:00Z", **changes: Any) -> dict[str, Any]:
    parts = artifacts.parse_stem(stem)
    assert parts
    return {
        "format": 1,
        "app": parts.app,
        "sha": parts.sha,
        "artifact": stem,
        "built_at": built_at,
        "recipe_digest": parts.recipe + "0" * 56,
        "image": {"file": f"{stem}.squashfs", "sha256": "0" * 64, "bytes": 1},
    } | changes


def refusal(*args: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        artifacts.choose(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("sha", ["abc123", "ABC123", SHA1, SHA1.upper()])
def test_a_prefix_in_either_case_finds_its_artifact(sha: str) -> None:
    assert artifacts.choose([STEM1, STEM2], "orders", sha) == STEM1


@pytest.mark.parametrize(
    "sha",
    [
        None,
        "",
        "abc12",
        SHA1 + "0",
        "abc123\n",
        " abc123",
        "abc 123",
        "xyz123",
        "{{ 7*7 }}",
        "abc123;id",
        "../../..",
        123456,
        True,
        ["abc123"],
        "abc12\N{FULLWIDTH DIGIT THREE}",
    ],
)
def test_anything_but_6_to_40_hex_characters_is_refused(sha: object) -> None:
    assert "sha" in refusal([STEM1], "orders", sha)


def test_unknown_names_the_closest() -> None:
    assert "the closest is abc123000000" in refusal([STEM1], "orders", "abc12f")
    assert "it holds abc124111111, abc123000000;" in refusal([STEM1, STEM2], "orders", "ffffff")
    assert "it is empty" in refusal([], "orders", "abc123")
    assert "it holds only orders" in refusal([STEM1], "shop", "abc123")


def test_ambiguous_lists_both() -> None:
    other = "abc1230" + "f" * 33
    text = refusal([STEM1, f"orders-{other}-11111111"], "orders", "abc123")
    assert SHA1 in text
    assert other in text
    assert "ambiguous" in text


def test_of_several_recipes_the_newest_is_taken_unless_one_is_named() -> None:
    older, newer = f"orders-{SHA1}-ffffffff", f"orders-{SHA1}-00000000"
    held = [manifest(older, "2026-01-01T00:00:00Z"), manifest(newer, "2026-01-02T00:00:00Z")]
    assert artifacts.choose(held, "orders", "abc123") == newer
    assert artifacts.choose(held, "orders", "abc123", older) == older
    assert artifacts.choose(held, "orders", None, older) == older
    assert "artifact=" in refusal([older, newer], "orders", "abc123")


def test_a_named_artifact_must_exist_and_agree() -> None:
    assert "not in the store" in refusal([STEM1], "orders", None, STEM2)
    assert "not of the commit" in refusal([STEM1], "orders", "ffffff", STEM1)
    assert "belongs to orders" in refusal([STEM1], "shop", None, STEM1)
    assert "not a name" in refusal([STEM1], "orders", None, "orders-abc123")
    assert "not a name" in refusal([STEM1], "orders", None, STEM1 + "\n")


def test_an_application_whose_name_begins_another_is_not_confused() -> None:
    longer = f"orders-api-{SHA1}-11111111"
    assert artifacts.choose([STEM1, longer], "orders", "abc123") == STEM1
    assert artifacts.choose([STEM1, longer], "orders-api", "abc123") == longer


def test_files_of_one_artifact_count_once() -> None:
    files = [f"{STEM1}.squashfs", f"{STEM1}.json", f"{STEM1}.cdx.json", "README", ".tmp-x.json"]
    assert artifacts.choose(files, "orders", "abc123") == STEM1


@given(st.text())
def test_any_text_gives_a_sha_or_one_line(text: str) -> None:
    try:
        sha = artifacts.check_sha(text)
    except ArtifactError as error:
        problem = str(error)
    else:
        assert 6 <= len(sha) <= 40
        assert set(sha) <= set(HEX)
        problem = ""
    assert "\n" not in problem
    assert len(problem) < 250


@given(st.lists(st.text(HEX, min_size=40, max_size=40), unique=True, max_size=6), st.text(HEX, min_size=6, max_size=40))
def test_choose_never_guesses(shas: list[str], wanted: str) -> None:
    stems = [f"orders-{sha}-11111111" for sha in shas]
    matching = [stem for stem in stems if stem.startswith(f"orders-{wanted}")]
    if len(matching) == 1:
        assert artifacts.choose(stems, "orders", wanted) == matching[0]
    else:
        refusal(stems, "orders", wanted)


@given(
    st.from_regex(r"\A[a-z][a-z0-9-]{0,30}\Z"),
    st.text(HEX, min_size=40, max_size=40),
    st.text(HEX, min_size=8, max_size=8),
)
def test_a_stem_is_read_back(app: str, sha: str, recipe: str) -> None:
    for ending in ("", ".json", ".cdx.json", ".squashfs"):
        assert artifacts.parse_stem(f"{app}-{sha}-{recipe}{ending}") == (app, sha, recipe)


def test_verify_accepts_its_own() -> None:
    artifacts.verify_manifest(manifest(STEM1), "orders", SHA1)
    artifacts.verify_manifest(manifest(STEM1), "orders", "abc123")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format"),
        ({"format": True}, "format"),
        ({"app": "shop"}, "belongs"),
        ({"sha": SHA2}, "built from"),
        ({"sha": None}, "built from"),
        ({"artifact": STEM2}, "names the artifact"),
        ({"recipe_digest": "f" * 64}, "recipe"),
        ({"image": None}, "image"),
        ({"image": {"file": "../x"}}, "image"),
        ({"image": {"file": f"{STEM1}.squashfs", "sha256": "00"}}, "digest"),
    ],
)
def test_verify_refuses_others(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ArtifactError, match=word):
        artifacts.verify_manifest(manifest(STEM1) | change, "orders", SHA1)
