"""What kind each option of an object store is of, whatever client stands below: those of fsspec's filesystems."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Literal, TypeAlias

Service: TypeAlias = Literal["s3", "gcs", "azure"]
Kinds: TypeAlias = Mapping[str, tuple[type, ...]]

SCHEMES: Mapping[Service, tuple[str, ...]] = {
    "s3": ("s3", "s3a"),
    "gcs": ("gs", "gcs"),
    "azure": ("abfs", "az", "abfss"),
}

TEXT: tuple[type, ...] = (str,)
FLAG: tuple[type, ...] = (bool,)
WHOLE: tuple[type, ...] = (int,)
NUMBER: tuple[type, ...] = (int, float)
TABLE: tuple[type, ...] = (Mapping,)

S3: Kinds = {
    **dict.fromkeys(("endpoint_url", "key", "secret", "token", "username", "password", "profile"), TEXT),
    **dict.fromkeys(("anon", "use_ssl", "requester_pays", "version_aware", "cache_regions"), FLAG),
    **dict.fromkeys(("fixed_upload_size", "local_expiry_check", "default_fill_cache"), FLAG),
    **dict.fromkeys(("max_concurrency", "default_block_size"), WHOLE),
    **dict.fromkeys(("client_kwargs", "config_kwargs", "s3_additional_kwargs"), TABLE),
}
S3_CLIENT: Kinds = {
    **dict.fromkeys(("region_name", "api_version", "endpoint_url", "aws_account_id"), TEXT),
    **dict.fromkeys(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"), TEXT),
    "use_ssl": FLAG,
    "verify": (*FLAG, *TEXT, PathLike),
}
S3_CONFIG: Kinds = {
    **dict.fromkeys(("region_name", "user_agent", "user_agent_extra", "user_agent_appid"), TEXT),
    **dict.fromkeys(("request_checksum_calculation", "response_checksum_validation", "defaults_mode"), TEXT),
    **dict.fromkeys(("account_id_endpoint_mode",), TEXT),
    **dict.fromkeys(("connect_timeout", "read_timeout"), NUMBER),
    "max_pool_connections": WHOLE,
    **dict.fromkeys(("parameter_validation", "use_dualstack_endpoint", "use_fips_endpoint", "tcp_keepalive"), FLAG),
    **dict.fromkeys(("s3", "retries", "proxies", "proxies_config", "connector_args"), TABLE),
    "client_context_params": TABLE,
}
S3_ARGUMENTS: Kinds = {
    **dict.fromkeys(("ServerSideEncryption", "SSEKMSKeyId", "ChecksumAlgorithm"), TEXT),
    "BucketKeyEnabled": FLAG,
}
"""Those that every engine knows; the model of the service has all of them."""
GCS: Kinds = {
    **dict.fromkeys(("project", "access", "consistency", "endpoint_url", "default_location"), TEXT),
    **dict.fromkeys(("secure_serialize", "check_connection", "version_aware"), FLAG),
    **dict.fromkeys(("requests_timeout", "timeout", "cache_timeout"), NUMBER),
    "requester_pays": (*FLAG, *TEXT),
    "block_size": WHOLE,
    "session_kwargs": TABLE,
}
AZURE_TIMEOUTS = ("timeout", "connection_timeout", "read_timeout")
AZURE: Kinds = {
    **dict.fromkeys(("account_name", "account_key", "connection_string", "sas_token", "account_host"), TEXT),
    **dict.fromkeys(("client_id", "client_secret", "tenant_id", "location_mode", "default_cache_type"), TEXT),
    **dict.fromkeys(("anon", "default_fill_cache", "version_aware", "assume_container_exists"), FLAG),
    **dict.fromkeys(("blocksize", "max_concurrency"), WHOLE),
    **dict.fromkeys(AZURE_TIMEOUTS, NUMBER),
}
PLACES: Mapping[Service, Mapping[str, Kinds]] = {
    "s3": {
        "options": S3,
        "options.client_kwargs": S3_CLIENT,
        "options.config_kwargs": S3_CONFIG,
        "options.s3_additional_kwargs": S3_ARGUMENTS,
    },
    "gcs": {"options": GCS},
    "azure": {"options": AZURE},
}
"""Where an option may stand, and the kinds there."""
