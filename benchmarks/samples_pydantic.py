"""The plain account of samples.py as pydantic models, for sides that use pydantic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from benchmarks.samples import ONE


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class PydanticPassword(_Model):
    discriminator: Literal["EmailClientAccountPasswordCredentials"] = "EmailClientAccountPasswordCredentials"
    login: str
    password: str


class PydanticOAuth(_Model):
    discriminator: Literal["EmailClientAccountOauthCredentials"] = "EmailClientAccountOauthCredentials"
    login: str
    client_id: str | None = None
    client_secret: str
    refresh_token: str
    request_url: str | None = None


class PydanticAccount(_Model):
    host: str
    port: int
    security_options: str | None = None
    protocol_type: str | None = None
    credentials: Annotated[PydanticPassword | PydanticOAuth, Field(discriminator="discriminator")]


PYDANTIC_ACCOUNT = PydanticAccount.model_validate_json(ONE.json)
