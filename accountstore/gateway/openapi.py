"""The description of the gateway: OpenAPI 3.1, from the models and the operations, and a page that shows it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from typing import Any

import msgspec

from accountstore import Account, MultiAccount, __version__
from accountstore.gateway.models import (
    MODELS,
    DiscUsage,
    Error,
    Exists,
    FilesList,
    FileVersionsList,
    Health,
    ObjectExists,
    Refusal,
    SaveMultiRequest,
    SaveRequest,
    Token,
    Uploaded,
)

__all__ = ("description", "page")

VERSION = "/v4.0"
_PREFIX = "#/components/schemas/"


def _ref(model: type, /) -> dict[str, str]:
    return {"$ref": _PREFIX + model.__name__}


def _parameter(name: str, what: str, /, *, required: bool = False, place: str = "query") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if required:
        schema["minLength"] = 1
    return {"name": name, "in": place, "required": required, "description": what, "schema": schema}


def _json(model: type, /) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(model)}}


_STORAGE = _parameter("storageName", "Storage name. Default: the default storage.")
_PATH = _parameter("path", "Path: folders and a name, separated by slashes.", required=True, place="path")
_LOCATION = (
    _parameter("fileName", "File name.", required=True),
    _parameter("folder", "Folder. Default: the root."),
    _parameter("storage", "Storage name. Default: the default storage."),
)
_VERSION_ID = _parameter("versionId", "The id of the current version. No other is served.")
_CONDITIONS = (
    _parameter("If-Match", "Proceed only if the document has one of these ETags.", place="header"),
    _parameter(
        "If-None-Match", "Proceed only if it has none of these ETags; `*`: only if it does not exist.", place="header"
    ),
)
_COPY = (
    _PATH,
    _parameter("destPath", "Target path.", required=True),
    _parameter("srcStorageName", "Storage of the source."),
    _parameter("destStorageName", "Storage of the target."),
    _VERSION_ID,
)
_ETAG = {"ETag": {"description": "The document's version.", "schema": {"type": "string"}}}
_ERRORS: Mapping[int, str] = {
    400: "A name, a query parameter or the body is invalid.",
    401: "The access token is missing, expired or invalid.",
    403: "The client has no right to do this, or the storage denies access.",
    404: "The document or storage does not exist, or belongs to another client.",
    408: "The request body did not arrive in time.",
    409: "The current state of the document or folder does not allow this.",
    412: "If-Match or If-None-Match does not hold.",
    413: "The request body or the response is too large.",
    429: "Too many requests.",
    501: "The storage or this gateway does not support this.",
    502: "The storage failed, or holds something that is no such document.",
    503: "The storage or the gateway is busy or unreachable.",
    504: "The storage did not respond in time.",
    507: "The storage is full.",
}


def _operation(
    name: str, summary: str, parameters: tuple[dict[str, Any], ...], answer: dict[str, Any], body: Any = None, /
) -> dict[str, Any]:
    errors = {str(status): {"description": what, "content": _json(Error)} for status, what in _ERRORS.items()}
    told: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": answer, **errors},
        "security": [{"token": []}],
    }
    if body is not None:
        told["requestBody"] = {"required": True, "content": body}
    return told


def _answer(what: str, model: type | None = None, headers: Any = None, /) -> dict[str, Any]:
    told: dict[str, Any] = {"description": what}
    if model is not None:
        told["content"] = _json(model)
    if headers is not None:
        told["headers"] = headers
    return told


def _account_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, model, request, suffix, what in (
        ("/email/client/account", Account, SaveRequest, "", "an account"),
        ("/email/client/account/multi", MultiAccount, SaveMultiRequest, "_multi", "a multi account"),
    ):
        get = _operation(
            f"client_account.get{suffix}", f"Get {what}.", (*_LOCATION, *_CONDITIONS), _answer("OK.", model, _ETAG)
        )
        get["responses"]["304"] = {"description": "Not modified."}
        save = _operation(
            f"client_account.save{suffix}",
            f"Create or replace {what}. Fields that the request does not have are kept.",
            _CONDITIONS,
            _answer("Saved.", None, _ETAG),
            _json(request),
        )
        paths[VERSION + path] = {"get": get, "put": save}
    return paths


def _file_paths() -> dict[str, Any]:
    storage = f"{VERSION}/email/storage"
    data = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    form = {"multipart/form-data": {"schema": {"type": "object", "properties": {"file": {"type": "string"}}}}}
    at = (_PATH, _STORAGE, _VERSION_ID)
    tagged = (*at, *_CONDITIONS)
    download = _operation(
        "file.download_file", "Download a file.", tagged, {"description": "OK.", "content": data, "headers": _ETAG}
    )
    download["responses"]["304"] = {"description": "Not modified."}
    folder = (_PATH, _STORAGE)
    recursive = _parameter("recursive", "`true`: delete the documents in it, too.")
    name = _parameter("storageName", "Storage name.", required=True, place="path")
    return {
        f"{storage}/file/{{path}}": {
            "get": download,
            "put": _operation(
                "file.upload_file",
                "Create or replace a file.",
                (_PATH, _STORAGE, *_CONDITIONS),
                _answer("Saved.", Uploaded, _ETAG),
                {**form, **data},
            ),
            "delete": _operation("file.delete_file", "Delete a file.", tagged, _answer("Deleted, or there was none.")),
        },
        f"{storage}/file/copy/{{path}}": {
            "put": _operation("file.copy_file", "Copy a file.", _COPY, _answer("Copied."))
        },
        f"{storage}/file/move/{{path}}": {
            "put": _operation("file.move_file", "Move a file.", _COPY, _answer("Moved."))
        },
        f"{storage}/folder/{{path}}": {
            "get": _operation("folder.get_files_list", "List a folder.", folder, _answer("OK.", FilesList)),
            "put": _operation(
                "folder.create_folder",
                "Create a folder.",
                folder,
                _answer("OK: folders exist as soon as they hold a file."),
            ),
            "delete": _operation(
                "folder.delete_folder", "Delete a folder.", (*folder, recursive), _answer("Deleted, or there was none.")
            ),
        },
        f"{storage}/exist/{{path}}": {
            "get": _operation(
                "storage.object_exists", "Whether a file or folder exists.", at, _answer("OK.", ObjectExists)
            )
        },
        f"{storage}/version/{{path}}": {
            "get": _operation(
                "storage.get_file_versions",
                "List the versions of a file that the storage keeps.",
                folder,
                _answer("OK.", FileVersionsList),
            )
        },
        f"{storage}/disc": {
            "get": _operation(
                "storage.get_disc_usage", "How full a storage is.", (_STORAGE,), _answer("OK.", DiscUsage)
            )
        },
        f"{storage}/{{storageName}}/exist": {
            "get": _operation("storage.exists", "Whether a storage exists.", (name,), _answer("OK.", Exists))
        },
    }


def _token_path() -> dict[str, Any]:
    fields = ("grant_type", "client_id", "client_secret")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in fields}, "required": list(fields)}
    refusals = {
        str(status): {"description": what, "content": _json(Refusal)}
        for status, what in {400: "Refused.", 429: "Too many failed attempts.", 503: "Busy."}.items()
    }
    errors = {str(status): {"description": _ERRORS[status], "content": _json(Error)} for status in (408, 413)}
    post = {
        "operationId": "token",
        "summary": "Get an access token for a client's id and secret (RFC 6749 section 4.4).",
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}},
        "responses": {"200": _answer("OK.", Token), **refusals, **errors},
    }
    return {"/connect/token": {"post": post}}


def _health_paths() -> dict[str, Any]:
    busy = {"description": "Not ready.", "content": _json(Error)}
    return {
        f"/health/{name}": {
            "get": {"operationId": name, "summary": what, "responses": {"200": _answer("OK.", Health), "503": busy}}
        }
        for name, what in (("live", "Whether the process answers."), ("ready", "Whether the storages answer."))
    }


def description(*, with_token: bool) -> dict[str, Any]:
    """The description. Without tokens of its own, the gateway has no `/connect/token`."""
    scheme: dict[str, Any] = {"type": "http", "scheme": "bearer"}
    if with_token:
        flow = {"clientCredentials": {"tokenUrl": "/connect/token", "scopes": {}}}
        scheme = {"type": "oauth2", "flows": flow}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "accountstore gateway",
            "version": __version__,
            "description": "The client-account API of Aspose.Email Cloud, version 4.0, over any storage.",
        },
        "paths": {
            **_account_paths(),
            **_file_paths(),
            **(_token_path() if with_token else {}),
            **_health_paths(),
        },
        "components": {"schemas": _schemas(), "securitySchemes": {"token": scheme}},
    }


def _schemas() -> dict[str, Any]:
    """The schemas of the models. Answers have secrets too, which go in clear to who may have them."""
    _, schemas = msgspec.json.schema_components(MODELS, ref_template=_PREFIX + "{name}")
    for schema in schemas.values():
        schema["description"] = schema.get("description", "").partition("\n")[0]
        for field in schema.get("properties", {}).values():
            for part in (field, *field.get("anyOf", ())):
                part.pop("writeOnly", None)
    return schemas


_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font: 600 1rem/1.5 ui-monospace, monospace; border-top: 1px solid; padding-top: 1rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; }
pre { overflow: auto; }
"""


def page(told: Mapping[str, Any], /) -> tuple[bytes, str]:
    """A description as HTML, and the content security policy that lets a browser show that and nothing else."""
    body = [f"<h1>{escape(told['info']['title'])}</h1><p>{escape(told['info']['description'])}</p>"]
    for path, operations in told["paths"].items():
        body += (_section(path, method, operation) for method, operation in operations.items())
    for name, schema in told["components"]["schemas"].items():
        text = escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())
        body.append(f'<h2 id="{escape(name)}">{escape(name)}</h2><pre>{text}</pre>')
    policy = f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"
    text = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>accountstore gateway</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    return text.encode(), f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _section(path: str, method: str, operation: Mapping[str, Any], /) -> str:
    rows = [
        (parameter["name"], parameter["in"], parameter["description"]) for parameter in operation.get("parameters", ())
    ]
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        rows.append(("body", kind, _models(body)))
    rows += (
        (status, "response", f"{one['description']} {_models(one)}") for status, one in operation["responses"].items()
    )
    table = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p><table>{table}</table>"


def _models(part: Mapping[str, Any], /) -> str:
    return ", ".join(re.findall(rf"{_PREFIX}(\w+)", msgspec.json.encode(part).decode()))
