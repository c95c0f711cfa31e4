"""Saves and gets an account by the vendor's Python client, on a gateway: `gateway_client.py URL ID SECRET`."""

from __future__ import annotations

import sys
from typing import Any

import AsposeEmailCloudSdk.api
import AsposeEmailCloudSdk.models

models: Any = AsposeEmailCloudSdk.models  # whose types refuse what its functions take


def main() -> None:
    """Run the example."""
    url, client_id, secret = sys.argv[1:4]
    api = AsposeEmailCloudSdk.api.EmailCloud(secret, client_id, url).client.account
    credentials = models.EmailClientAccountPasswordCredentials("me@example.com", "correct horse")
    account = models.EmailClientAccount("imap.example.com", 993, "SSLAuto", "IMAP", credentials)
    location = models.StorageFileLocation(None, "mail/team-a", "email.account")
    api.save(models.ClientAccountSaveRequest(location, account))
    got: Any = api.get(models.ClientAccountGetRequest("email.account", "mail/team-a"))
    print(f"saved and got an account of {got.credentials.login} at {got.host}")


if __name__ == "__main__":
    main()
