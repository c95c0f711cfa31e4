"""The description: OpenAPI 3.1 from the models, and a page of it without anything from elsewhere."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest
from gateways import serving

from accountstore import AccountStore, __version__
from accountstore.gateway.openapi import description
from accountstore.gateway.operations import OPERATIONS
from accountstore.gateway.routing import HANDLERS, OPEN

pytestmark = pytest.mark.anyio


async def test_it_describes_all_that_is_served(store: AccountStore) -> None:
    """Each served operation is described under its name, and nothing that is not served."""
    async with serving(store, token=False) as http:
        answer = await http.get("/openapi.json")
    told = answer.json()
    assert (told["openapi"], told["info"]["version"]) == ("3.1.0", __version__)
    described = {
        (method.upper(), path): operation["operationId"]
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
    }
    served = {(one.method, f"/v4.0{one.path}"): one.name for one in OPERATIONS if one.name in HANDLERS}
    assert served.items() <= described.items()
    assert {path for _, path in described.keys() - served.keys()} == OPEN.keys() - {
        "/docs",
        "/metrics",
        "/openapi.json",
    }


def references(tree: Any) -> set[str]:
    """All references in a tree."""
    return set(re.findall(r"'\$ref': '([^']+)'", repr(tree)))


def test_models_are_those_of_the_store() -> None:
    """Secrets have the format `password`; every reference leads somewhere; errors have the envelope's fields."""
    told = description(with_token=True)
    schemas = told["components"]["schemas"]
    assert schemas["PasswordCredentials"]["properties"]["password"]["format"] == "password"
    oauth = schemas["OAuthCredentials"]["properties"]
    assert oauth["refreshToken"]["format"] == "password"
    assert oauth["clientSecret"]["anyOf"][0]["format"] == "password"
    assert "writeOnly" not in repr(schemas)  # answers have them
    assert {ref.rpartition("/")[2] for ref in references(told)} <= schemas.keys()
    assert list(schemas["ErrorDetails"]["properties"]) == ["code", "message", "description", "innerError"]


def test_it_is_a_valid_description() -> None:
    """The OpenAPI 3.1 schema takes it."""
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(description(with_token=True))
    with pytest.raises(Exception, match=r"paths|required|valid"):  # control
        validator.validate({"openapi": "3.1.0", "info": {}})


class Page(HTMLParser):
    """What a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        if tag in {"script", "link", "img", "iframe", "object", "embed", "form", "base"}:
            self.loads.append(tag)
        self.loads += [
            f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "style"} or name.startswith("on")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_loads_nothing(store: AccountStore) -> None:
    """The page shows every operation, is well formed, has no script, and its policy forbids all but its own style."""
    async with serving(store, token=False) as http:
        answer = await http.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(answer.text)
    assert page.loads == []
    assert page.open == []
    assert "url(" not in answer.text
    assert "@import" not in answer.text
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    assert answer.headers["content-security-policy"].startswith(
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'"
    )
    for path in description(with_token=True)["paths"]:
        assert path in answer.text
