"""What the docs show of the gateway runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gateways import BASE, HASH, PASSWORD, request_of
from gatewayservers import free_port
from running import HUNG, PYTHON

from accountstore import AccountStore
from accountstore.gateway import load_gateway_config

if TYPE_CHECKING:
    import httpx
else:
    httpx = pytest.importorskip("httpx")

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "gateway.md").read_text()


@pytest.mark.anyio
async def test_the_mounted_example_serves() -> None:
    """The example of an embedding service serves a tenant, and nobody else."""
    names: dict[str, Any] = {"__name__": "docs"}
    exec(re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)[0], names)
    async with AccountStore.open(names["config"]) as store:
        app = names["service"](store)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://g/mail") as http,
        ):
            assert (await http.put(BASE, json=request_of(PASSWORD))).status_code == 401
            assert (await http.put(BASE, json=request_of(PASSWORD), headers={"x-tenant": "a"})).status_code == 200
        assert [entry.location.path async for entry in store.list(recursive=True)] == ["tenants/a/a.account"]


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.once
def test_the_mounted_example_starts_as_it_stands(tmp_path: Path) -> None:
    """The example is a program: it serves until Ctrl-C, and prints no name of a document."""
    text, port = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)[0], free_port()
    assert "port=8080" in text
    (tmp_path / "service.py").write_text(text.replace("port=8080", f"port={port}"))
    with (
        subprocess.Popen(
            [*PYTHON, "service.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/mail", headers={"x-tenant": "a"}) as http,
    ):
        try:
            while not _answers(port):
                assert process.poll() is None
                time.sleep(0.05)
            assert http.put(BASE, json=request_of(PASSWORD)).status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=HUNG)
    assert (process.returncode, "Traceback" in output, "account" in output) == (0, False, False), output


def test_the_example_of_a_configuration_is_one(tmp_path: Path) -> None:
    """The documented file has every key, each with its default but the client's."""
    text = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)[0]
    text = text.replace("$argon2id$v=19$m=65536,t=3,p=4$...", HASH)
    file = tmp_path / "g.toml"
    file.touch(0o600)
    file.write_text(text)
    config = load_gateway_config(str(file))
    for part in (config, config.limits, config.clients["team-a"]):
        for name in part.__struct_fields__:
            assert f"{name} = " in text or name in {"clients", "limits"}
    assert config.limits == type(config.limits)()
    assert (config.token_seconds, config.probe_seconds, config.metrics) == (86400, 10, False)


@pytest.mark.once
def test_the_first_minutes(tmp_path: Path) -> None:
    """The page's commands, but for the installation, add a client, serve, save and get."""
    pytest.importorskip("AsposeEmailCloudSdk")
    (block,) = (text for text in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL) if "accountstore serve" in text)
    install, *commands = block.splitlines()
    assert "pip install" in install
    script = "\n".join(commands).replace(".venv/bin/", f"{sysconfig.get_path('scripts')}/")
    script = (
        script.replace("8080", str(free_port()))
        .replace("docs/", f"{ROOT}/docs/")
        .replace("python ", "python -W ignore ")
    )
    names = ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCOUNTSTORE")}
    began = time.monotonic()
    ended = subprocess.run(
        ["bash", "-ec", script],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HUNG,
        env={**environment, **dict.fromkeys(names, str(tmp_path))},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout == "saved and got an account of me@example.com at imap.example.com\n"
    print(f"{time.monotonic() - began:.1f} s")
    (document,) = tmp_path.rglob("*.account")
    assert document.parts[-5:] == ("tenants", "me", "mail", "team-a", "email.account")
