"""The options of S3, checked at opening: what s3fs, aiobotocore or botocore would refuse later, drop, or obey.

An argument that is the store's own, such as a delimiter, would change what a call does without a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from inspect import signature
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.auth import AUTH_TYPE_MAPS
from botocore.exceptions import BotoCoreError
from botocore.handlers import VALID_BUCKET, VALID_S3_ARN
from botocore.session import Session, get_session
from s3fs import S3FileSystem

from accountstore.backends.aws_keys import check_keys
from accountstore.backends.base import ConfigError
from accountstore.backends.kinds import FLAG, S3, S3_CLIENT, S3_CONFIG, TABLE, TEXT, WHOLE, Kinds
from accountstore.backends.options import (
    AWS_FILES,
    BYTES,
    check_kinds,
    check_names,
    check_no_pipes,
    check_options,
    check_url,
    configured,
    table,
)

OPERATIONS = ("GetObject", "PutObject", "HeadObject", "DeleteObject", "ListObjectsV2", "ListObjectVersions")
"""Those that are asked for with arguments of the user's."""
_ARGUMENT_KINDS: Kinds = {
    **dict.fromkeys(("integer", "long"), WHOLE),
    "boolean": FLAG,
    **dict.fromkeys(("structure", "map"), TABLE),
    "string": TEXT,
}
_WHEN = frozenset({"when_required", "when_supported"})
_CHOICES: Mapping[str, frozenset[str]] = {
    "request_checksum_calculation": _WHEN,
    "response_checksum_validation": _WHEN,
    "defaults_mode": frozenset({"auto", "cross-region", "in-region", "legacy", "mobile", "standard"}),
    "signature_version": frozenset({*AUTH_TYPE_MAPS, "s3v4a"}),
}
_API = "2006-03-01"
_OURS = frozenset(
    {
        *("Bucket", "Key", "Body", "Prefix", "Delimiter", "ContinuationToken", "StartAfter", "EncodingType"),
        *("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince", "VersionId", "Range", "PartNumber"),
        *("KeyMarker", "VersionIdMarker", "ContentLength", "ContentMD5"),
    }
)
"""Arguments of single requests: which document, which part of it, on which condition."""


def check_s3(bucket: str, options: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for a bucket's name or an option that the client would refuse later, or drop."""
    if not VALID_BUCKET.search(bucket) and not VALID_S3_ARN.search(bucket):
        raise ConfigError("url: the url must name a bucket, or an access point by its ARN: s3://bucket/prefix")
    check_options(options, S3FileSystem.__init__, S3, "profile")
    check_no_pipes(AWS_FILES)
    session = options.get("session")
    if session is not None and not hasattr(session, "create_client"):
        raise ConfigError("options: 'session' must be a session of aiobotocore")
    if session is None:
        _check_profile(options.get("profile"))
    check_url(options, "endpoint_url")
    _check_least(options, "max_concurrency", 1)
    _check_client(table(options, "client_kwargs"))
    _check_config(table(options, "config_kwargs"))
    if additional := table(options, "s3_additional_kwargs"):
        _check_arguments(additional)
    check_keys({**configured("s3", "s3a"), **options})


def _check_profile(profile: Any, /) -> None:
    """Raise `ConfigError` for a profile that the files of AWS's tools do not have."""
    if profile is None:
        return
    try:
        Session(profile=profile).get_scoped_config()
    except BotoCoreError as error:
        reason = type(error).__name__
        raise ConfigError(f"options: 'profile' cannot be used ({reason})") from None


def _check_client(client: Mapping[str, object], /) -> None:
    place = "options.client_kwargs"
    session: Any = AioSession
    known = [name for name in signature(session._create_client).parameters if name in S3_CLIENT]  # noqa: SLF001
    check_names(client, known, place)
    check_kinds(client, S3_CLIENT, place)
    check_url(client, "endpoint_url", place)
    if not re.fullmatch("[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?|", str(client.get("region_name") or "")):
        raise ConfigError(f"{place}: 'region_name' cannot be one")
    if client.get("api_version") not in {None, _API}:
        raise ConfigError(f"{place}: 'api_version' must be {_API}")
    authority = client.get("verify")
    if isinstance(authority, str | os.PathLike) and not os.path.isfile(authority):
        raise ConfigError(f"{place}: 'verify' names a file that is not there")


def _check_config(config: Mapping[str, object], /) -> None:
    place = "options.config_kwargs"
    check_names(config, [*AioConfig.OPTION_DEFAULTS, "connector_args"], place)
    check_kinds(config, S3_CONFIG, place)
    _check_least(config, "max_pool_connections", 0)
    for name, known in _CHOICES.items():
        value = config.get(name)
        if isinstance(value, str) and (value if name == "signature_version" else value.lower()) not in known:
            raise ConfigError(f"{place}: {name!r} must be one of {', '.join(sorted(known))}")
    make: Any = AioConfig
    for name, value in config.items():
        try:
            make(**{name: value})
        except (BotoCoreError, TypeError, ValueError) as error:
            reason = type(error).__name__
            raise ConfigError(f"{place}: {name!r} cannot be used ({reason})") from None


def _check_least(options: Mapping[str, object], name: str, least: int, /) -> None:
    value = options.get(name)
    if isinstance(value, int) and value < least:
        raise ConfigError(f"options: {name!r} must be at least {least}")


def _check_arguments(given: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for arguments that no operation of S3 has: they would be dropped, encryption too."""
    model: Any = get_session().get_service_model("s3")
    shapes = [model.operation_model(name).input_shape for name in (*model.operation_names, *OPERATIONS)]
    members = {name: member for shape in shapes if shape is not None for name, member in shape.members.items()}
    place = "options.s3_additional_kwargs"
    check_names(given, members, place)
    for name in given.keys() & _OURS:
        raise ConfigError(f"{place}: {name!r} is set by the store")
    kinds = {name: _ARGUMENT_KINDS.get(members[name].type_name, (object,)) for name in given}
    check_kinds(given, kinds | dict.fromkeys(BYTES, (str, bytes)), place)
