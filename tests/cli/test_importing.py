"""`import`: accounts of himalaya, mbsync, msmtp and Thunderbird's autoconfiguration.

The samples follow what these programs document: `config.sample.toml` of himalaya 1.2 and 2.1, mbsync(1) and
`mbsyncrc.sample` of isync 1.0 to 1.5, msmtp(1) and `msmtprc-user.example` of msmtp 1.8, and the format of
`config-v1.1.xml` with files of Thunderbird's database of providers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

for package in ("pty", "typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

from commandline import SINGLE, Answer, Terminal, document_at, files, run

from accountstore import ConfigError
from accountstore.cli.imports import autoconfig

pytestmark = pytest.mark.usefixtures("home")


HIMALAYA_2 = """\
downloads-dir = "~/downloads"
table.preset = "││──╞═╪╡┆    ┬┴┌┐└┘"

[accounts.example]
default = true
mailbox.alias.sent = "[Gmail]/Sent Mail"

imap.server = "imap.example.com"
imap.tls.provider = "rustls"
imap.sasl.plain.username = "user@example.com"
imap.sasl.plain.password.raw = "CANARY-raw"

smtp.server = "smtp://smtp.example.com:587"
smtp.starttls = true
smtp.sasl.login.username = "user@example.com"
smtp.sasl.login.password.command = "printf 'CANARY-command\\\\nsecond line\\\\n'"

[accounts.reading]
imap.server = "imap://[2001:db8::1]"
imap.sasl.scram-sha-256.username = "$MAIL_USER"
imap.sasl.scram-sha-256.password.command = ["printf", "%s", "CANARY list"]

[accounts.relay]
smtp.server = "smtp.example.com:2525"
smtp.sasl.anonymous.message = "himalaya"

[accounts.open]
smtp.server = "smtp://relay.example.com"

[accounts.authcid]
imap.server = "imaps://imap.example.com"
imap.sasl.plain.authcid = "me"
imap.sasl.plain.passwd.raw = "CANARY-passwd"
"""
HIMALAYA_1 = """\
[accounts.example]
email = "example@localhost"
backend.type = "imap"
backend.host = "localhost"
backend.port = 993
backend.encryption.type = "tls"
backend.login = "example@localhost"
backend.auth.type = "password"
backend.auth.cmd = "printf CANARY-imap"
message.send.backend.type = "smtp"
message.send.backend.host = "localhost"
message.send.backend.port = 587
message.send.backend.encryption.type = "start-tls"
message.send.backend.login = "example@localhost"
message.send.backend.auth.type = "password"
message.send.backend.auth.raw = "CANARY-smtp"

[accounts.oauth]
backend.type = "imap"
backend.host = "imap.gmail.com"
backend.port = 993
backend.login = "me@gmail.com"
backend.auth.type = "oauth2"
backend.auth.method = "xoauth2"
backend.auth.client-id = "client-id"
backend.auth.client-secret.raw = "CANARY-client-secret"
backend.auth.auth-url = "https://accounts.google.com/o/oauth2/v2/auth"
backend.auth.token-url = "https://www.googleapis.com/oauth2/v3/token"
backend.auth.refresh-token.raw = "CANARY-refresh-token"
backend.auth.pkce = true
backend.auth.scope = "https://mail.google.com/"
message.send.backend.type = "sendmail"
message.send.backend.cmd = "/usr/bin/sendmail"
"""
MBSYNC = r"""
# Global configuration section
Expunge None
Create Both

MaildirStore local
Path ~/Mail/
Trash Trash

IMAPStore work
Host work.host.com
User tehuser
Pass "CANARY \"quoted\" \\ secret"
# PassCmd "gnome-keyring-query get mail_pw"

Channel work
Far :work:
Near :local:work

IMAPStore personal
Host host.play.com
Port 6789
SSLType None
User me # not you
Pass CANARY-personal

IMAPStore remote
Tunnel "ssh -q host.remote.com /usr/sbin/imapd"

IMAPAccount server
Host imap.foo.bar.com
User me@foo.bar.com
PassCmd "+printf 'CANARY-passcmd\\n'"
TLSType IMAPS
AuthMechs LOGIN
CertificateFile ~/.server-certificate.crt

IMAPStore server
Account server
MapInbox inbox

IMAPAccount old
Host imaps:old.example.com
USER me
pass CANARY-old
RequireSSL no

IMAPAccount older
Host older.example.com
User me
Pass CANARY-older
UseIMAPS yes

IMAPAccount oldest
Host oldest.example.com
User me
Pass CANARY-oldest
RequireSSL no
"""
MSMTP = """\
# Set default values: use the mail submission port 587, and always use TLS.
defaults
port 587
tls on
tls_starttls on

# Define a mail account at a freemail service
account freemail
host smtp.freemail.example
from joe_smith@freemail.example
auth on
user joe.smith
passwordeval printf 'CANARY-eval\\n'

# A second mail address at the same freemail service
account freemail2 : freemail
from joey@freemail.example
password "CANARY quoted"

account company
host mail.company.example
port 465
tls_starttls off
from smithjoe@company.example
auth plain
user\tcompany12345
password CANARY-company

account plain
host plain.example
tls off
port 25
auth off
user nobody

account local
protocol lmtp
host localhost

account socket
host localhost
socket /run/smtp

# Set a default account
account default : freemail
"""
GMAIL = """\
<?xml version="1.0" encoding="UTF-8"?>
<clientConfig version="1.1">
  <emailProvider id="googlemail.com">
    <domain>gmail.com</domain>
    <!-- MX, for Google Apps -->
    <domain>google.com</domain>
    <displayName>Google Mail</displayName>
    <incomingServer type="exchange">
      <hostname>ews.example.com</hostname><port>443</port><socketType>SSL</socketType>
      <username>%EMAILADDRESS%</username><authentication>password-cleartext</authentication>
    </incomingServer>
    <incomingServer type="imap">
      <hostname>imap.gmail.com</hostname>
      <port>993</port>
      <socketType>SSL</socketType>
      <username>%EMAILADDRESS%</username>
      <authentication>OAuth2</authentication>
      <authentication>password-cleartext</authentication>
    </incomingServer>
    <incomingServer type="pop3">
      <hostname>pop.gmail.com</hostname>
      <port>995</port>
      <socketType>SSL</socketType>
      <username>%EMAILADDRESS%</username>
      <authentication>OAuth2</authentication>
      <pop3>
        <leaveMessagesOnServer>true</leaveMessagesOnServer>
      </pop3>
    </incomingServer>
    <outgoingServer type="smtp">
      <hostname> smtp.%EMAILDOMAIN% </hostname>
      <port>587</port>
      <socketType>STARTTLS</socketType>
      <username>%EMAILLOCALPART%</username>
      <authentication>GSSAPI</authentication>
      <authentication>OAuth2</authentication>
      <authentication>password-cleartext</authentication>
    </outgoingServer>
  </emailProvider>
  <oAuth2>
    <issuer>accounts.google.com</issuer>
    <scope>https://mail.google.com/</scope>
    <authURL>https://accounts.google.com/o/oauth2/auth</authURL>
    <tokenURL>https://www.googleapis.com/oauth2/v3/token</tokenURL>
  </oAuth2>
  <webMail><loginPage url="https://accounts.google.com/ServiceLogin?service=mail&amp;continue=x" /></webMail>
</clientConfig>
"""
SAMPLES = {"himalaya": HIMALAYA_2, "mbsync": MBSYNC, "msmtp": MSMTP, "autoconfig": GMAIL}

MANY_DIGITS = f"""
<clientConfig><emailProvider id="a"><incomingServer type="imap">
<hostname>h</hostname><port>{"9" * 5000}</port><socketType>SSL</socketType>
</incomingServer></emailProvider></clientConfig>
"""


def imported(form: str, text: str | bytes, *options: str) -> Answer:
    """What importing a file of a format answers."""
    Path("given").write_bytes(text if isinstance(text, bytes) else text.encode())
    return run("import", form, "given", *options)


def account(host: str, port: int, security: str, protocol: str, **credentials: str) -> dict[str, Any]:
    """An account with a password, or with the credentials given."""
    kind = "Password" if "password" in credentials else "Oauth" if credentials else ""
    return {
        "host": host,
        "port": port,
        "securityOptions": security,
        "protocolType": protocol,
        "credentials": {"discriminator": f"EmailClientAccount{kind}Credentials", **credentials},
    }


def test_himalaya_2_is_taken_over_with_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are authorities or URLs; secrets are raw or a command's first line; logins have variables."""
    monkeypatch.setenv("MAIL_USER", "me@example.com")
    answer = imported("himalaya", HIMALAYA_2, "mail/", "--run-commands")
    assert (answer.code, answer.everything) == (0, "")
    login = {"login": "user@example.com"}
    assert document_at("mail/example.multi.account") == {
        "receiveAccounts": [account("imap.example.com", 993, "SSLImplicit", "IMAP", **login, password="CANARY-raw")],
        "sendAccount": account("smtp.example.com", 587, "SSLExplicit", "SMTP", **login, password="CANARY-command"),
    }
    assert document_at("mail/reading.account") == account(
        "2001:db8::1", 143, "None", "IMAP", login="me@example.com", password="CANARY list"
    )
    assert document_at("mail/relay.account") == account("smtp.example.com", 2525, "SSLImplicit", "SMTP")
    assert document_at("mail/open.account") == account("relay.example.com", 25, "None", "SMTP")
    assert document_at("mail/authcid.account")["credentials"]["password"] == "CANARY-passwd"


def test_himalaya_1_is_taken_over_with_its_secrets() -> None:
    """Backends of release 1 have their own keys; OAuth credentials come whole; sendmail is no server."""
    assert imported("himalaya", HIMALAYA_1, "--run-commands").everything == ""
    login = {"login": "example@localhost"}
    assert document_at("example.multi.account") == {
        "receiveAccounts": [account("localhost", 993, "SSLImplicit", "IMAP", **login, password="CANARY-imap")],
        "sendAccount": account("localhost", 587, "SSLExplicit", "SMTP", **login, password="CANARY-smtp"),
    }
    assert document_at("oauth.account") == account(
        *("imap.gmail.com", 993, "SSLImplicit", "IMAP"),
        login="me@gmail.com",
        clientId="client-id",
        clientSecret="CANARY-client-secret",
        refreshToken="CANARY-refresh-token",
        requestUrl="https://www.googleapis.com/oauth2/v3/token",
    )


def test_mbsync_is_taken_over_with_its_secrets() -> None:
    """Accounts, and stores that are accounts themselves; quotes, comments and the switches of old releases."""
    answer = imported("mbsync", MBSYNC, "Archive:mail/", "--run-commands")
    assert answer.code == 1
    assert answer.err.startswith("accountstore: 'remote' is not imported: is reached by a tunnel")
    assert answer.err.count("\n") == 1
    expected = {
        "work": ("work.host.com", 143, "SSLExplicit", "tehuser", 'CANARY "quoted" \\ secret'),
        "personal": ("host.play.com", 6789, "None", "me", "CANARY-personal"),
        "server": ("imap.foo.bar.com", 993, "SSLImplicit", "me@foo.bar.com", "CANARY-passcmd"),
        "old": ("old.example.com", 993, "SSLImplicit", "me", "CANARY-old"),
        "older": ("older.example.com", 993, "SSLImplicit", "me", "CANARY-older"),
        "oldest": ("oldest.example.com", 143, "SSLAuto", "me", "CANARY-oldest"),
    }
    for name, (host, port, security, login, password) in expected.items():
        assert document_at(f"Archive:mail/{name}.account") == account(
            host, port, security, "IMAP", login=login, password=password
        )
    assert len(run("ls", "Archive:mail").out.splitlines()) == len(expected)


def test_msmtp_is_taken_over_with_its_secrets() -> None:
    """Defaults and inherited settings count; the default account that is another one's name is not a second one."""
    answer = imported("msmtp", MSMTP, "--run-commands")
    assert answer.code == 1
    assert answer.err.splitlines() == [
        "accountstore: 'local' is not imported: protocol: only SMTP has a name here",
        "accountstore: 'socket' is not imported: socket: has no host",
    ]
    free = ("smtp.freemail.example", 587, "SSLExplicit", "SMTP")
    assert document_at("freemail.account") == account(*free, login="joe.smith", password="CANARY-eval")
    assert document_at("freemail2.account") == account(*free, login="joe.smith", password="CANARY quoted")
    assert document_at("company.account") == account(
        "mail.company.example", 465, "SSLImplicit", "SMTP", login="company12345", password="CANARY-company"
    )
    assert document_at("plain.account") == account("plain.example", 25, "None", "SMTP")
    assert len(run("ls").out.splitlines()) == 4


def test_a_login_that_msmtp_does_not_use_is_told() -> None:
    """Without `auth` msmtp logs in nowhere, whatever user and password say: what is left out is told."""
    text = "account a\nhost h\nuser me\npassword CANARY\n"
    answer = imported("msmtp", text)
    assert (answer.code, document_at("a.account")) == (0, account("h", 25, "None", "SMTP"))
    assert answer.err == "accountstore: 'a' is imported without user and password, as there is no `auth on`\n"


@pytest.mark.parametrize(
    ("text", "host", "port", "security"),
    [
        ("account a\nhost h\n", "h", 25, "None"),
        ("account a\nhost h\ntls\n", "h", 25, "SSLExplicit"),
        ("account a\nhost h\ntls on\ntls_starttls off\n", "h", 465, "SSLImplicit"),
        ("defaults\nhost d\ntls on\n\naccount a\n", "d", 25, "SSLExplicit"),
        ("account b\nhost h\nport 1\n\naccount c\nport 2\n\naccount a : b, c\n", "h", 2, "None"),
        ("defaults\nport 9\n\naccount b\nhost h\n\ndefaults\nport 8\n\naccount a : b\n", "h", 8, "None"),
        ("account a\neval printf 'host h'\n", "h", 25, "None"),
        ('account a\r\nhost "h"\r\n', "h", 25, "None"),
    ],
)
def test_msmtp_defaults_and_inheritance(text: str, host: str, port: int, security: str) -> None:
    """What msmtp would use, by its own order of defaults, inherited and own settings."""
    assert imported("msmtp", text, "--account", "a", "--run-commands").everything == ""
    assert document_at("a.account") == account(host, port, security, "SMTP")


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        ("himalaya", "[accounts\nCANARY", "(at line 1, column 10)"),
        ("himalaya", "x = 1\n", "accounts: must be a table"),
        ("himalaya", b"\xff", "is not UTF-8"),
        ("mbsync", 'IMAPAccount a\nPass "CANARY\n', "line 2: a quote is not closed"),
        ("mbsync", "Create Both\n", "has no account"),
        ("msmtp", "host CANARY\n", "line 1: stands before any account"),
        ("msmtp", "account a : CANARY\n", "line 1: an account inherits from one that is not there"),
        ("msmtp", "account a\nhost h\naccount a\n", "line 3: an account has no name, or one that is taken"),
        ("msmtp", "account a\neval echo CANARY\n", "line 2: eval runs a command: allow it by --run-commands"),
        ("himalaya", f"accounts = {'9' * 5000}", "a number is too long, or values are too deep"),
        ("himalaya", f"accounts = {'[' * 5000}", "a number is too long, or values are too deep"),
        ("autoconfig", "<clientConfig>CANARY", "is no XML: "),
        ("autoconfig", "", "is no XML: "),
        ("autoconfig", "<clientConfig/>", "has no emailProvider"),
        ("himalaya", "#" * (1024 * 1024 + 1), "has more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_not_understood_is_one_line(form: str, text: str | bytes, reason: str) -> None:
    """The line names the file and the place, and no value; nothing is written."""
    refusal = imported(form, text).refusal
    assert refusal.startswith("given: ")
    assert reason in refusal
    assert "CANARY" not in refusal
    assert files() == ["given"]


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        ("himalaya", "[accounts.a]\njmap.server = 'x'\n", "has neither IMAP nor SMTP"),
        ("himalaya", "[accounts.a]\nimap = 3\n", "imap: must be a table"),
        ("himalaya", "[accounts]\na = 3\n", "the account: must be a table"),
        ("himalaya", "[accounts.a]\nimap.server = 'pop://CANARY'\n", "imap.server: must be a host, or a URL"),
        ("himalaya", "[accounts.a]\nimap.server = 'CANARY:port'\n", "imap.server: must be a host, or a URL"),
        ("himalaya", "[accounts.a]\nimap.server = 'h'\nimap.sasl.ntlm = {}\n", "imap.sasl.ntlm: is not a mechanism"),
        ("himalaya", "[accounts.a]\nimap.server = 'h'\nimap.sasl = {}\n", "imap.sasl: must name one mechanism"),
        (
            "himalaya",
            "[accounts.a]\nimap.server = 'h'\nimap.sasl.plain = { username = 'u', password = 'CANARY' }\n",
            "imap.sasl.plain.password: must say raw, command or keyring",
        ),
        ("himalaya", "[accounts.a.backend]\ntype = 'imap'\nhost = 'h'\nport = 'CANARY'\n", "backend.port: must be a"),
        (
            "himalaya",
            "[accounts.a.backend]\ntype = 'imap'\nhost = 'h'\nport = 1\nencryption = 'CANARY'\n",
            "backend.encryption: is not one that is known",
        ),
        (
            "himalaya",
            "[accounts.a.backend]\ntype = 'imap'\nhost = 'h'\nport = 1\nencryption.type = ['CANARY']\n",
            "backend.encryption: is not one that is known",
        ),
        ("mbsync", "IMAPAccount a\nHost h\nPort CANARY\n", "Port: must be a number"),
        ("mbsync", f"IMAPAccount a\nHost h\nPort {'9' * 5000}\n", "Port: must be a number"),
        ("mbsync", "IMAPAccount a\nHost h\nSSLType CANARY\n", "TLSType: must be None, STARTTLS or IMAPS"),
        ("mbsync", "IMAPAccount a\nUser u\n", "Host: is missing"),
        ("msmtp", "account a\nport 1\n", "host: is missing"),
        ("msmtp", "account a\nhost h\nport CANARY\n", "port: must be a number"),
        ("msmtp", f"account a\nhost h\nport {'9' * 5000}\n", "port: must be a number"),
        ("autoconfig", MANY_DIGITS, "has no server that an account can say"),
    ],
)
def test_an_account_that_no_document_can_say_is_told(form: str, text: str, reason: str) -> None:
    """It is named with the reason, and nothing of its values; the exit code is 1."""
    answer = imported(form, text)
    assert answer.code == 1
    assert answer.err.startswith(f"accountstore: 'a' is not imported: {reason}")
    assert "CANARY" not in answer.everything
    assert files() == ["given"]


def autoconfigured(*options: str, text: str = GMAIL) -> Answer:
    """What importing Thunderbird's configuration of a provider shows, without asking."""
    return imported("autoconfig", text, "--email", "me@gmail.com", "--dry-run", "--json", *options)


def test_autoconfig_names_the_servers_that_are_preferred() -> None:
    """The first server of each kind counts, but for Exchange; the address fills logins and hosts."""
    answer = autoconfigured("mail/")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == {
        "location": "mail/me@gmail.com.multi.account",
        "receives": {
            "protocol": "IMAP",
            "host": "imap.gmail.com",
            "port": 993,
            "security": "SSLImplicit",
            "login": "me@gmail.com",
            "refresh token": "asked for",
        },
        "sends": {
            "protocol": "SMTP",
            "host": "smtp.gmail.com",
            "port": 587,
            "security": "SSLExplicit",
            "login": "me",
            "refresh token": "asked for",
        },
    }
    assert json.loads(autoconfigured("--auth", "password").out)["receives"]["password"] == "asked for"


@pytest.mark.parametrize(
    ("kind", "host", "port", "security", "way", "shown"),
    [
        ("pop3", "h", "110", "plain", "plain", ("POP3", 110, "None")),
        ("imap", "h", "1", "TLS", "NTLM", ("IMAP", 1, "SSLImplicit")),
        ("exchange", "h", "443", "SSL", "password-encrypted", ("EWS", 443, "SSLImplicit")),
        ("nntp", "h", "119", "plain", "plain", None),
        ("imap", "h", "x", "plain", "plain", None),
        ("imap", "", "1", "plain", "plain", None),
        ("imap", "h", "1", "odd", "plain", None),
        ("imap", "h", "1", "SSL", "GSSAPI", None),
    ],
)
def test_autoconfig_leaves_out_what_no_account_can_say(
    kind: str, host: str, port: str, security: str, way: str, shown: tuple[str, int, str] | None
) -> None:
    """Another protocol, no port, an unknown security, or a way in by Kerberos alone."""
    text = f"""<clientConfig><emailProvider id="p"><incomingServer type="{kind}">
        <hostname>{host}</hostname><port>{port}</port><socketType>{security}</socketType>
        <authentication>{way}</authentication></incomingServer></emailProvider></clientConfig>"""
    answer = autoconfigured(text=text)
    if shown is None:
        assert answer.err == "accountstore: 'me@gmail.com' is not imported: has no server that an account can say\n"
    else:
        found = json.loads(answer.out)["receives"]
        assert (found["protocol"], found["port"], found["security"]) == shown
        assert found["login"] == "asked for"


def test_autoconfig_without_login_has_no_credentials() -> None:
    """`client-IP-address` and `none` are no login; without an address the provider names the document."""
    server = "<outgoingServer type='smtp'><hostname>h</hostname><port>25</port><socketType>plain</socketType>"
    way = "<authentication>client-IP-address</authentication></outgoingServer>"
    text = f"<clientConfig><emailProvider id='isp.example'>{server}{way}</emailProvider></clientConfig>"
    assert imported("autoconfig", text).everything == ""
    assert document_at("isp.example.account") == account("h", 25, "None", "SMTP")


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "CANARYCANARY"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">]>
<clientConfig><emailProvider id='&d;'/></clientConfig>"""


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]><clientConfig>&x;</clientConfig>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><clientConfig/>',
        "<!DOCTYPE clientConfig><clientConfig/>",
    ],
)
def test_xml_with_a_document_type_is_refused(text: str) -> None:
    """No entity is expanded, no other file is read: a document type ends the import at once."""
    assert imported("autoconfig", text).refusal == "given: declares a document type: nothing of it is read"


def test_without_that_refusal_entities_would_be_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same parser, allowed to go on, builds a text of ten thousand characters from a few."""
    monkeypatch.setattr(autoconfig, "_refuse", Mock())
    [provider] = autoconfig.parse(BOMB.encode(), None, None)
    assert provider.name == "CANARY" * 2000


def test_xml_that_is_deep_is_read() -> None:
    """A hundred thousand nested elements are no provider, and no crash."""
    depth = 100_000
    with pytest.raises(ConfigError, match="has no emailProvider"):
        autoconfig.parse(b"<a>" * depth + b"</a>" * depth, None, None)


def test_what_is_missing_is_asked_for_on_a_terminal() -> None:
    """Secrets are asked for without an echo, each with the account and field that it is for."""
    Path("given").write_text(GMAIL, encoding="utf-8")
    terminal = Terminal("import", "autoconfig", "given", "mail/", "--email", "me@gmail.com")
    for protocol in ("IMAP", "SMTP"):
        terminal.answer(f"me@gmail.com, {protocol}: refresh token (hidden): ", f"CANARY-{protocol}")
        terminal.answer(f"me@gmail.com, {protocol}: client id: ", "the-client")
    assert terminal.end() == 0
    assert "CANARY" not in terminal.shown
    assert "imported mail/me@gmail.com.multi.account" in terminal.shown
    sending = document_at("mail/me@gmail.com.multi.account")["sendAccount"]["credentials"]
    assert (sending["clientId"], sending["refreshToken"]) == ("the-client", "CANARY-SMTP")
    assert sending["requestUrl"] == "https://www.googleapis.com/oauth2/v3/token"


def test_a_dry_run_asks_for_nothing() -> None:
    """On a terminal neither: a file with an `eval` is refused, with the option that allows it."""
    Path("given").write_text("account a\nhost h\neval touch ran\n", encoding="utf-8")
    terminal = Terminal("import", "msmtp", "given", "--dry-run")
    assert terminal.end() == 1
    assert "line 3: eval runs a command: allow it by --run-commands" in terminal.shown
    assert files() == ["given"]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_command_is_run_only_if_the_user_agrees(answer: str) -> None:
    """The command shows before it is run; at a no, the secret is asked for."""
    Path("given").write_text(
        "account a\nhost h\nauth on\nuser me\npasswordeval touch ran; echo CANARY-1\n", encoding="utf-8"
    )
    terminal = Terminal("import", "msmtp", "given")
    terminal.answer("run 'touch ran; echo CANARY-1'? [y/N]: ", answer)
    if answer == "n":
        terminal.answer("(hidden): ", "CANARY-2")
    assert terminal.end() == 0
    assert Path("ran").exists() is (answer == "y")
    assert document_at("a.account")["credentials"]["password"] == ("CANARY-1" if answer == "y" else "CANARY-2")


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        (
            "msmtp",
            "account a\nhost h\nauth on\nuser me\n",
            "a, SMTP: password: msmtp looks into the keyring",
        ),
        ("msmtp", "account a\nhost h\nauth on\npassword CANARY\n", "a, SMTP: login: the file does not say it"),
        (
            "msmtp",
            "account a\nhost h\nauth on\nuser me\npasswordeval echo CANARY\n",
            "a, SMTP: password: from a command that was not run; --run-commands runs it",
        ),
        ("msmtp", "account a\nhost h\nauth xoauth2\nuser me\n", "a, SMTP: refresh token: msmtp has access tokens only"),
        ("mbsync", "IMAPAccount a\nHost h\nUser u\n", "a, IMAP: password: the file does not say it"),
        (
            "mbsync",
            "IMAPAccount a\nHost h\nUser u\nUseKeychain yes\n",
            "a, IMAP: password: mbsync has it from",
        ),
        (
            "mbsync",
            "IMAPAccount a\nHost h\nUser u\nAuthMechs XOAUTH2\nPassCmd x\n",
            "a, IMAP: refresh token: mbsync has access tokens only",
        ),
        (
            "himalaya",
            "[accounts.a.backend]\ntype='imap'\nhost='h'\nport=1\nlogin='u'\nauth.keyring='entry'\n",
            "a, IMAP: password: himalaya keeps it in the keyring, as 'entry'",
        ),
        (
            "himalaya",
            "[accounts.a]\nimap.server='h'\nimap.sasl.xoauth2={username='u', token.raw='CANARY'}\n",
            "a, IMAP: refresh token: the file has an access token only",
        ),
    ],
)
def test_no_secret_is_made_up(form: str, text: str, reason: str) -> None:
    """Where a secret is elsewhere and nobody can be asked, nothing is written, and the line says where it is."""
    refusal = imported(form, text).refusal
    assert refusal.startswith(reason)
    assert "CANARY" not in refusal
    assert files() == ["given"]


@pytest.mark.parametrize("encoding", ["rot13", "hex", "nonsense", "shift_jis", "utf-7", "utf-32", "idna", "undefined"])
def test_an_encoding_that_is_not_read_is_told(encoding: str) -> None:
    """Whatever Python makes of the name that an XML declaration has, it is a line, and no traceback."""
    text = GMAIL.replace("UTF-8", encoding)
    assert imported("autoconfig", text).refusal == "given: declares an encoding that cannot be read: save it as UTF-8"


@pytest.mark.parametrize("odd", ["\u00a0", "\u3000", "\x85", "\u2028", "\x1c", "\x0c"])
def test_a_password_is_as_long_as_the_program_reads_it(odd: str) -> None:
    """Of what Unicode calls a space or the end of a line, the programs know few: no password is cut off there."""
    password = f"CANARY{odd}end"
    quoted = f'"{password}"' if odd == "\x0c" else password  # to mbsync, which is C, it is a space
    samples = {
        "msmtp": f"account a\nhost h\nauth on\nuser {odd}u\npassword {password}\n",
        "mbsync": f"IMAPAccount a\nHost h\nUser u\nPass {quoted}\n",
        "himalaya": "accounts.a.imap = {server = 'h', sasl.plain = {username = 'u', passwd.cmd = 'cat secret'}}\n",
    }
    Path("secret").write_text(f"{password}\r\nsecond line\n", newline="")
    for form, text in samples.items():
        assert imported(form, text, f"{form}/", "--run-commands").everything == ""
        assert document_at(f"{form}/a.account")["credentials"]["password"] == password


def test_what_cannot_be_had_is_told_and_the_rest_is_imported() -> None:
    """A secret that is elsewhere, or a name that no location can have, stops no other account."""
    accounts = "account a\nhost h\nauth on\nuser me\n\naccount b/c\nhost h\n\naccount d\nhost h\n"
    answer = imported("msmtp", accounts)
    assert answer.code == 1
    assert [line.partition(": ")[2].partition(": ")[0] for line in answer.err.splitlines()] == [
        "the account 'b/c'",
        "a, SMTP",
    ]
    assert files() == ["first/d.account", "given"]
    assert imported("msmtp", accounts, "--account", "d", "--account", "b/c", "--dry-run").code == 1


@pytest.mark.parametrize(
    "command", ["echo CANARY; exit 3", "true", "printf '\\377'", "no-such-program-here 2>/dev/null"]
)
def test_a_command_that_fails_is_told_without_its_output(command: str) -> None:
    """Its output may be a secret, or a part of one."""
    text = f"account a\nhost h\nauth on\nuser me\npasswordeval {command}\n"
    refusal = imported("msmtp", text, "--run-commands").refusal
    assert refusal.startswith("a, SMTP: password: the command ")
    assert "CANARY" not in refusal
    assert files() == ["given"]


def test_a_document_that_is_there_stays_unless_it_may_be_replaced() -> None:
    """The other accounts are imported all the same."""
    run("save", "company.account", stdin=SINGLE)
    options = ("--account", "company", "--account", "plain")
    answer = imported("msmtp", MSMTP, *options)
    told = "company.account: there is a document already: --replace replaces it"
    assert (answer.code, answer.err) == (1, f"accountstore: {told}\n")
    assert document_at("company.account") == SINGLE
    assert document_at("plain.account")["host"] == "plain.example"
    assert imported("msmtp", MSMTP, "--replace", *options, "--json").out.splitlines() == [
        '{"location":"company.account"}',
        '{"location":"plain.account"}',
    ]
    assert document_at("company.account")["host"] == "mail.company.example"


def test_one_account_may_be_given_a_location() -> None:
    """The target may be a document's location where one account is chosen, of the kind that it makes."""
    assert imported("msmtp", MSMTP, "Archive:x/work.account", "--account", "company").code == 0
    assert document_at("Archive:x/work.account")["host"] == "mail.company.example"
    assert imported("himalaya", HIMALAYA_2, "x.account").refusal.endswith("choose one by --account")
    refusal = imported("autoconfig", GMAIL, "x.account", "--email", "a@b").refusal
    assert refusal == "x.account: the account needs a file name in .multi.account"
    assert imported("msmtp", MSMTP, "--account", "nope").refusal.startswith("given: has no account 'nope'; known: ")


def test_a_name_that_no_location_can_have_is_told() -> None:
    """Nothing is renamed silently: the account is imported under a location that is given."""
    text = "IMAPAccount a/b:c\nHost h\nUser u\nPass CANARY\n"
    assert "the account 'a/b:c': file name: has a slash" in imported("mbsync", text).refusal
    assert imported("mbsync", text, "x.account").code == 0
    assert document_at("x.account")["host"] == "h"


@pytest.mark.parametrize("form", SAMPLES)
def test_a_dry_run_shows_no_secret_and_changes_nothing(form: str) -> None:
    """It says where each secret would come from, runs no command and asks for nothing."""
    for options in ((), ("--json",)):
        answer = imported(form, SAMPLES[form], "--dry-run", *options)
        assert "CANARY" not in answer.everything
        assert answer.crash == ""
        assert ".account" in answer.out
        assert any(words in answer.out for words in ("in the file", "asked for"))
    assert files() == ["given"]


@pytest.mark.parametrize(
    ("name", "port", "target", "reason"),
    [
        ("a", "0", "", "a.account: $.port: Expected `int` >= 1"),
        ("a", "true", "", "a.account: $.port: Expected `int`, got `bool`"),
        ("a.multi", "1", "", "a.multi.account: the account needs a file name in .account"),
        ("", "1", "m/", "m/.account: the file name must end in .account or .multi.account, with a name before it"),
        ("a", "1", "Nope:", "the storage 'Nope' is not configured"),
    ],
)
def test_a_dry_run_refuses_what_the_import_refuses(name: str, port: str, target: str, reason: str) -> None:
    """In the same words, and it writes nothing and runs no command for that."""
    server = f'type = "imap", host = "h", port = {port}, login = "me", auth.cmd = "echo x >> ran; echo y"'
    text = f'accounts."{name}".backend = {{{server}}}'
    refusal = imported("himalaya", text, *filter(None, [target]), "--dry-run", "--run-commands").refusal
    assert refusal.startswith(reason)
    assert files() == ["given"]  # and not what the command makes
    assert imported("himalaya", text, *filter(None, [target]), "--run-commands").refusal == refusal


def test_two_accounts_of_one_name_replace_neither() -> None:
    """They would be one document: it is told, and neither is imported, --replace or not; the rest is."""
    text = "".join(f"IMAPAccount {name}\nHost {name}\nUser u\nPass CANARY-{name}\n\n" for name in ("a", "b", "a"))
    for options in (("--dry-run",), ("--replace",)):
        answer = imported("mbsync", text, *options)
        told = "a.account: 2 accounts of the file would be this document: none of them is imported"
        assert (answer.code, answer.err) == (1, f"accountstore: {told}\n")
    assert files() == ["first/b.account", "given"]


def test_a_name_that_steers_a_terminal_shows_as_its_escape() -> None:
    """Neither the location nor a host or login turns the terminal's text around."""
    text = 'IMAPAccount "a\u202eb"\nHost "h\x1b[31m"\nUser "u\u202e"\nPass x\n'
    for options in ((), ("--json",)):
        answer = imported("mbsync", text, "--dry-run", *options)
        assert answer.code == 0
        assert not any(mark in answer.everything for mark in "\x1b\u202e")


@pytest.mark.parametrize("arguments", ["nope given", "himalaya", "autoconfig given --auth kerberos"])
def test_wrong_usage_ends_with_two(arguments: str) -> None:
    """An unknown format, a missing file name and an unknown method are wrong usage."""
    assert run("import", *arguments.split()).code == 2


def test_a_file_that_cannot_be_read_is_one_line() -> None:
    """A missing file is named."""
    assert run("import", "msmtp", "nope").refusal == "nope: cannot be read (No such file or directory)"
