"""One Debian 12 VM that ends TLS itself. The tests are one story."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from promises import INVENTORIES, REPO, Deployment

PEM, KEY = "/etc/ssl/notes.pem", "/etc/ssl/private/notes.key"


@pytest.fixture(scope="module")
def site(vm: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The notes on a host that was bare, with a certificate."""
    hosts = {"app_servers": {"hosts": {"bare12": {"ansible_host": vm.address("bare12")}}}}
    yield vm.variant(
        tmp_path_factory.mktemp("tls"),
        hosts=hosts,
        app_tls_certificate=PEM,
        app_tls_key=KEY,
        app_system_packages=["gettext-base"],
    )
    # other scenarios want it bare
    subprocess.run([REPO / "scripts" / "hosts", "down", INVENTORIES / "vm", "bare12"], check=True, timeout=120)


def certificate(site: Deployment, name: str) -> None:
    """A certificate signed by itself, as a renewal leaves it."""
    site.on(
        "bare12",
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN={name}"
        f" -addext subjectAltName=DNS:{site.domain} -out {PEM} -keyout {KEY} 2>&1",
    )


def ask(site: Deployment, url: str, write: str) -> str:
    """What curl on the host itself says of a URL of the site."""
    ports = " ".join(f"--resolve {site.domain}:{port}:127.0.0.1" for port in (80, 443))
    return site.on("bare12", f"curl -sk {ports} -o /dev/null -w '{write}' {url.replace('SITE', site.domain)}")


def test_a_certificate_that_is_not_there_is_named_before_anything_changes(site: Deployment) -> None:
    site.on("bare12", f"rm -f {PEM} {KEY}")
    ran = site.playbook("provision.yml", timeout=600)
    assert ran.status != 0, ran.tail()
    assert any(f"{PEM} is not on bare12" in line for line in ran.lines), ran.tail()


def test_provisioning_brings_tls_and_the_packages_that_the_application_needs(site: Deployment) -> None:
    certificate(site, "first")
    site.provision()
    assert site.host("bare12").package("gettext-base").is_installed
    assert ask(site, "https://SITE/", "%{http_code} %{http_version}") == "503 2", "nothing is deployed yet"


def test_the_first_deploy_serves_over_http_2(site: Deployment) -> None:
    site.must("deploy.yml", sha=site.sha("n1"), watch=0)
    assert ask(site, "https://SITE/", "%{http_code} %{http_version}") == "200 2"


def test_plain_http_is_redirected_with_its_path(site: Deployment) -> None:
    told = ask(site, "http://SITE/sign-in?next=/", "%{http_code} %{redirect_url}")
    assert told == f"308 https://{site.domain}/sign-in?next=/"


def test_cookies_are_for_tls_only(site: Deployment) -> None:
    head = site.on("bare12", f"curl -sk --resolve {site.domain}:443:127.0.0.1 -D- -o /dev/null https://{site.domain}/")
    (cookie,) = [line for line in head.lower().splitlines() if line.startswith("set-cookie: bgid_notes=")]
    assert "; secure" in cookie
    assert "; httponly" in cookie


def test_a_deploy_and_a_rollback_lose_no_request(site: Deployment) -> None:
    urls = [f"https://{site.address('bare12')}"]
    with site.under_load(urls=urls):
        site.must("deploy.yml", sha=site.sha("n2"), watch=1)
    with site.under_load(urls=urls):
        site.must("rollback.yml")


def test_a_renewed_certificate_is_served_after_provisioning_and_costs_no_request(site: Deployment) -> None:
    certificate(site, "second")
    with site.under_load(rate=100, urls=[f"https://{site.address('bare12')}"]):
        site.provision()
    peer = f"openssl s_client -connect 127.0.0.1:443 -servername {site.domain} </dev/null 2>&1"
    assert "second" in site.on("bare12", f"{peer} | grep -a -m1 subject=")
    assert site.on("bare12", "ls /run/nginx.closing 2>/dev/null || true") == ""
