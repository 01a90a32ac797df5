"""The workflows: pinned, without rights that they do not need, thin, and called as they can be called."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import check_migrations as gate
from support import hosts
from support.artifact import cli as build
from support.artifact import sign
from support.ci import inputs
from support.common import program
from support.load import cli as traffic

REPO = Path(__file__).parents[3]
OURS = sorted((REPO / ".github" / "workflows").glob("*.yml"))
EXAMPLES = sorted((REPO / "examples" / "workflows").glob("*.yml"))
ORDERS = REPO / "examples" / "orders" / ".github" / "workflows" / "pipeline.yml"
CALLED = re.compile(r"(?:\./|example-org/bluegreen/)\.github/workflows/(?P<name>[a-z-]+\.yml)(?:@0{40})?")
REQUIREMENTS = REPO / "requirements-dev.in"
LONGEST = 3  # commands of a step


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    return found


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=[path.name for path in paths])


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@named([*OURS, *EXAMPLES, ORDERS])
def test_rights_are_given_by_the_job_that_needs_them(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    assert [name for name, job in workflow["jobs"].items() if "permissions" not in job] == []


@named(OURS)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    used = re.findall(r"uses: (?!\./)(.*)", path.read_text())
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_an_action_has_one_pin_in_all_workflows() -> None:
    pins = {line for path in OURS for line in re.findall(r"uses: (actions/.*)", path.read_text())}
    assert len(pins) == len({pin.split("@")[0] for pin in pins})


@named(OURS)
def test_no_step_runs_text_that_others_wrote(path: Path) -> None:
    assert [step["run"] for step in steps(load(path)) if "${{" in step.get("run", "")] == []


@named(OURS)
def test_jobs_end_and_checkouts_keep_no_token(path: Path) -> None:
    workflow = load(path)
    assert [name for name, job in workflow["jobs"].items() if "uses" not in job and "timeout-minutes" not in job] == []
    kept = [step for step in steps(workflow) if "actions/checkout@" in step.get("uses", "")]
    assert [step for step in kept if step.get("with", {}).get("persist-credentials") != "false"] == []


@named(OURS)
def test_logic_is_in_scripts(path: Path) -> None:
    long = [step["name"] for step in steps(load(path)) if len(step.get("run", "").strip().splitlines()) > LONGEST + 1]
    assert long == []


@named(OURS)
def test_scripts_that_are_called_are_there(path: Path) -> None:
    called = set(re.findall(r"\bscripts/[a-z-]+", "\n".join(step.get("run", "") for step in steps(load(path)))))
    assert [name for name in sorted(called) if not (REPO / name).exists()] == []


def words_of(name: str, step: str, script: str) -> list[str]:
    """The words that a step gives a script, variables by their names."""
    runs = [one["run"] for one in steps(load(REPO / ".github" / "workflows" / name)) if one.get("name") == step]
    words = shlex.split(runs[0].replace("\\\n", " ").replace("$(", " "))
    return words[words.index(f"scripts/{script}") + 1 :]


def test_words_of_a_step_are_those_that_its_script_knows() -> None:
    shot = traffic.parser().parse_args(words_of("app-run.yml", "No request may fail", "load"))
    assert (shot.urls, shot.rate, shot.duration) == (["$URL"], 20.0, 60.0)
    words = words_of("app-build.yml", "Build", "build-artifact")
    made = build.parser().parse_args([word.rstrip(")") for word in words[1 : words.index("store)") + 1]])
    assert (made.rev, str(made.store), made.sign) == ("$SHA", "store", None)
    signed = sign.parser().parse_args(words_of("app-build.yml", "Sign", "sign-artifact"))
    assert (signed.name, str(signed.store), signed.sha, str(signed.sign)) == ("$NAME", "store", "$SHA", "@key")
    asked = inputs.parser().parse_args(["deploy", *words_of("app-run.yml", "Run", "deploy")[1:]])
    assert {name for name, value in vars(asked).items() if str(value).startswith("$")} >= {
        *("env", "sha", "to", "canary", "artifact", "artifact_store"),
    }
    judged = gate.parser().parse_args(words_of("app-ci.yml", "Check what is new against what runs", "check-migrations"))
    assert (judged.base, judged.head, judged.approve_later) == ("HEAD^1", "HEAD", True)


def test_deploys_and_rollbacks_share_a_group_and_are_never_cancelled() -> None:
    job = load(REPO / ".github" / "workflows" / "app-run.yml")["jobs"]["run"]
    assert job["concurrency"]["cancel-in-progress"] == "false"
    assert job["concurrency"]["queue"] == "max"
    assert "inputs.environment" in job["concurrency"]["group"]
    run = next(step["run"] for step in job["steps"] if step["name"] == "Run")
    assert run.startswith("exec scripts/deploy ")
    others = [path.name for path in OURS if path.name != "app-run.yml" and "scripts/deploy " in path.read_text()]
    assert others == []


@named([*OURS, *EXAMPLES, ORDERS])
def test_calls_fit_what_is_called(path: Path) -> None:
    for name, job in load(path)["jobs"].items():
        if "uses" not in job:
            continue
        found = CALLED.fullmatch(job["uses"])
        assert found, f"{name}: {job['uses']}"
        offered = load(REPO / ".github" / "workflows" / found["name"])["on"]["workflow_call"]
        required = {key for key, item in offered["inputs"].items() if item.get("required") == "true"}
        assert required <= set(job["with"]) <= set(offered["inputs"])
        # what its caller does not name a called workflow does not get, not even from its own environment
        assert job["secrets"] == {name: f"${{{{ secrets.{name} }}}}" for name in offered["secrets"]}


def test_production_comes_after_staging_and_approval_and_only_if_neither_failed() -> None:
    jobs = load(REPO / ".github" / "workflows" / "app-deploy.yml")["jobs"]
    assert jobs["then"]["needs"] == ["first", "approval"]
    for stops in ("!cancelled()", "!contains(needs.*.result, 'failure')", "!contains(needs.*.result, 'cancelled')"):
        assert stops in jobs["then"]["if"]
    assert jobs["approval"]["needs"] == "first"
    for stops in ("!cancelled()", "needs.first.result != 'failure'", "needs.first.result != 'cancelled'"):
        assert stops in jobs["approval"]["if"]


def test_an_approval_that_is_waited_for_holds_no_queue_and_no_secret() -> None:
    approval = load(REPO / ".github" / "workflows" / "app-deploy.yml")["jobs"]["approval"]
    assert approval["environment"] == "${{ inputs.approval }}"
    assert "concurrency" not in approval
    assert approval["permissions"] == {}
    assert "secrets." not in str(approval)


def test_what_is_under_load_is_what_this_run_deployed() -> None:
    """The load is a part of the job that holds the environment's turn, and comes after its deploy."""
    names = [step["name"] for step in load(REPO / ".github" / "workflows" / "app-run.yml")["jobs"]["run"]["steps"]]
    assert names.index("Run") < names.index("No request may fail")


def test_the_signing_key_is_where_nothing_of_the_application_runs_and_comes_after_the_scan() -> None:
    jobs = load(REPO / ".github" / "workflows" / "app-build.yml")["jobs"]
    with_key = [name for name, job in jobs.items() if "secrets.BLUEGREEN_SIGNING_KEY" in str(job)]
    assert with_key == [name for name, job in jobs.items() if "environment" in job] == ["sign"]
    names = [step["name"] for step in jobs["sign"]["steps"]]
    assert "Get the application" not in names
    assert names.index("Scan what was built") < names.index("Sign") < names.index("Keep the artifact")


def test_production_gets_the_artifact_that_staging_had() -> None:
    then = load(REPO / ".github" / "workflows" / "app-deploy.yml")["jobs"]["then"]
    assert then["with"]["exactly"] == "${{ needs.first.outputs.artifact }}"


def test_the_example_s_pipeline_is_the_one_that_users_copy() -> None:
    own, copied = load(ORDERS), load(REPO / "examples" / "workflows" / "pipeline.yml")
    assert own["jobs"].pop("check")["uses"] == copied["jobs"].pop("check")["uses"]
    assert own == copied


def test_shellcheck_has_nothing_to_say_about_steps(tmp_path: Path) -> None:
    found = [(path.stem, step) for path in OURS for step in steps(load(path)) if "run" in step]
    files = [tmp_path / f"{number:02}-{name}.sh" for number, (name, _) in enumerate(found)]
    for file, (_, step) in zip(files, found, strict=True):
        given = "".join(f"export {name}=x\n" for name in step.get("env", {}))
        file.write_text(f"{given}{step['run']}\n")
    command = [program("shellcheck"), "--shell=bash", "--format=gcc", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")


def app_servers(name: str) -> dict[str, dict[str, str]]:
    """The app servers of a set of test hosts, with their variables."""
    listing = load(REPO / "molecule" / "shared" / "inventories" / name / "hosts.yml")
    found: dict[str, dict[str, str]] = listing["all"]["children"]["test_hosts"]["children"]["app_servers"]["hosts"]
    return found


def test_every_scenario_runs_in_ci_on_both_systems() -> None:
    job = load(REPO / ".github" / "workflows" / "ci.yml")["jobs"]["molecule"]
    matrix = job["strategy"]["matrix"]
    assert set(matrix["system"]) == set(hosts.SYSTEMS)
    run = next(step for step in job["steps"] if step["name"] == "Test")
    assert run["env"]["TEST_HOST_OS"] == "${{ matrix.system }}"
    named = {row["hosts"]: row["scenarios"].split() for row in matrix["include"] if "scenarios" in row}
    assert set(named) == set(matrix["hosts"])
    there = [path.parent for path in (REPO / "molecule").glob("*/molecule.yml") if path.parent.name != "default"]
    assert sorted(name for names in named.values() for name in names) == sorted(path.name for path in there)
    for path in there:
        servers = app_servers(load(path / "molecule.yml")["provisioner"]["env"]["TEST_HOSTS"])
        assert path.name in named["one VM" if len(servers) == 1 else "several"]
        assert [name for name, host in servers.items() if "test_host_os" in host] == [], "its system would be fixed"


def test_the_unit_tests_and_scenarios_meet_the_oldest_and_the_newest_ansible() -> None:
    jobs = load(REPO / ".github" / "workflows" / "ci.yml")["jobs"]
    pins = re.findall(r"^ansible==(\S+) ; python_version ([<>=]+) \"([\d.]+)\"", REQUIREMENTS.read_text(), re.MULTILINE)
    assert [(sign, version) for _, sign, version in pins] == [("<", "3.12"), (">=", "3.12")]
    for name in ("unit", "molecule"):
        rows = [row for row in jobs[name]["strategy"]["matrix"]["include"] if "python" in row]
        assert {row["core"]: float(row["python"].removeprefix("3.")) < 12 for row in rows} == {
            "2.19": True,
            "newest": False,
        }
