"""pymap with XOAUTH2, which it knows and does not offer: the demo user's password is its access token too.

`python imap_server.py` takes pymap's own options.
"""

from __future__ import annotations

import gc
from typing import Any

import pymap.backend.dict as backend
from pymap.config import IMAPConfig
from pymap.exceptions import InvalidAuth
from pymap.main import main
from pysasl import SASLAuth
from pysasl.creds.external import ExternalCredentials
from pysasl.mechanism.oauth import OAuth2Mechanism


async def authenticate(self: Any, credentials: Any) -> Any:
    """As pymap's own, for tokens too."""
    if not isinstance(credentials, ExternalCredentials):
        return await by_password(self, credentials)
    token = getattr(credentials, "_token")  # noqa: B009 -- which has no public name
    if (credentials.authzid, token) != (self.config.demo_user, self.config.demo_password):
        raise InvalidAuth
    return backend.Identity(credentials.authzid, self, None, set())


by_password = backend.Login.authenticate
setattr(backend.Login, "authenticate", authenticate)  # noqa: B010 -- a checker knows that it is a method
SASL = SASLAuth([*SASLAuth.defaults().server_mechanisms, OAuth2Mechanism()])
setattr(IMAPConfig, "tls_auth", SASL)  # noqa: B010 -- as above

if __name__ == "__main__":
    gc.disable()  # nothing holds the tasks of its connections: a collection may end one in the midst
    main()
