"""Web pages in the place of a service's answer: of a proxy that has no route, or wants a login. They say nothing of a
document, whatever their status.
"""

from __future__ import annotations

import re

from accountstore.backends.base import UnavailableError

PAGE = "<html>"
"""Stands for the error code of an answer that is a page. No service answers so."""
_LISTING = re.compile(
    r"<(title|h1)[^>]*>[^<]*(index of|directory listing|directory:|[\[:] ?/)|<a\s[^>]*href=[\"']?\.\./?[\"'\s>]"
    r"|\[to parent directory\]|<pre>(\s|<br>)*</pre>|class=[\"']listing\b",
    re.IGNORECASE,
)
_DOCUMENT = re.compile(r"href=[\"']?[^\"'>]*\.account[\"'\s>]", re.IGNORECASE)


def is_page(body: str, /) -> bool:
    """Whether a body, or the beginning of one, is a web page. Google's own errors have its content type, too."""
    return re.match(r"\s*<(!doctype\s+)?html\b", body, re.IGNORECASE) is not None


def is_page_error(status: int, code: str, /) -> bool:
    """Whether an answer calls something missing, and is a page."""
    return code == PAGE and status in {404, 410}


def is_listing(body: str, /) -> bool:
    """Whether a web page is the listing of a folder, be it empty: by its heading, a link to the folder above, or the
    frame of the entries, one of which nginx, Apache, Python, lighttpd, IIS, Tomcat, Jetty, Caddy and Go have.
    """
    return _LISTING.search(body) is not None


def links_to_a_document(body: str, /) -> bool:
    """Whether a web page has a link to a document."""
    return _DOCUMENT.search(body) is not None


def page_error(status: int, /) -> UnavailableError:
    """The error for a page that stands where only the storage's own answer counts."""
    return UnavailableError(f"the answer is not the storage's, but a web page ({status})")
