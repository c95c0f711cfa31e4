"""All operations of the API, version 4.0: `METHOD PATH NAME`. What the gateway does not serve is answered with 501.

The list is that of the vendor's Python SDK 21.9.0. Of two paths that both fit, the first counts.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("OPERATIONS", "Declared")


class Declared(NamedTuple):
    """An operation as the API names it."""

    method: str
    path: str
    name: str


_LIST = """
GET /email email.get
PUT /email email.save
PUT /email/AiBcr/parse ai_bcr.parse
PUT /email/AiBcr/parse-storage ai_bcr.parse_storage
GET /email/AiName/complete ai_name.complete
GET /email/AiName/expand ai_name.expand
PUT /email/AiName/expand-parsed ai_name.expand_parsed
GET /email/AiName/format ai_name.format
PUT /email/AiName/format-parsed ai_name.format_parsed
GET /email/AiName/genderize ai_name.genderize
PUT /email/AiName/genderize-parsed ai_name.genderize_parsed
GET /email/AiName/match ai_name.match
PUT /email/AiName/match-parsed ai_name.match_parsed
GET /email/AiName/parse ai_name.parse
GET /email/AiName/parse-email-address ai_name.parse_email_address
GET /email/Calendar calendar.get
PUT /email/Calendar calendar.save
GET /email/Calendar/as-alternate calendar.get_as_alternate
PUT /email/Calendar/as-alternate calendar.as_alternate
GET /email/Calendar/as-file calendar.get_as_file
PUT /email/Calendar/as-file calendar.as_file
PUT /email/Calendar/as-mapi calendar.as_mapi
PUT /email/Calendar/convert calendar.convert
PUT /email/Calendar/from-file calendar.from_file
GET /email/Calendar/list calendar.get_list
GET /email/Contact contact.get
PUT /email/Contact contact.save
GET /email/Contact/as-file contact.get_as_file
PUT /email/Contact/as-file contact.as_file
PUT /email/Contact/as-mapi contact.as_mapi
PUT /email/Contact/convert contact.convert
PUT /email/Contact/from-file contact.from_file
GET /email/Contact/list contact.get_list
GET /email/MapiCalendar mapi_calendar.get
PUT /email/MapiCalendar mapi_calendar.save
PUT /email/MapiCalendar/as-calendar-dto mapi_calendar.as_calendar_dto
PUT /email/MapiCalendar/as-file mapi_calendar.as_file
PUT /email/MapiCalendar/from-file mapi_calendar.from_file
GET /email/MapiContact mapi_contact.get
PUT /email/MapiContact mapi_contact.save
PUT /email/MapiContact/as-contact-dto mapi_contact.as_contact_dto
PUT /email/MapiContact/as-file mapi_contact.as_file
PUT /email/MapiContact/from-file mapi_contact.from_file
GET /email/MapiMessage mapi_message.get
PUT /email/MapiMessage mapi_message.save
PUT /email/MapiMessage/as-email-dto mapi_message.as_email_dto
PUT /email/MapiMessage/as-file mapi_message.as_file
PUT /email/MapiMessage/from-file mapi_message.from_file
GET /email/as-file email.get_as_file
PUT /email/as-file email.as_file
PUT /email/as-mapi email.as_mapi
GET /email/client/account client_account.get
PUT /email/client/account client_account.save
GET /email/client/account/multi client_account.get_multi
PUT /email/client/account/multi client_account.save_multi
DELETE /email/client/folder client_folder.delete
PUT /email/client/folder client_folder.create
GET /email/client/folder/list client_folder.get_list
DELETE /email/client/message client_message.delete
GET /email/client/message client_message.fetch
POST /email/client/message client_message.send
POST /email/client/message/append client_message.append
GET /email/client/message/file client_message.fetch_file
POST /email/client/message/file client_message.send_file
POST /email/client/message/file/append client_message.append_file
GET /email/client/message/list client_message.list
PUT /email/client/message/move client_message.move
PUT /email/client/message/set-is-read client_message.set_is_read
DELETE /email/client/thread client_thread.delete
GET /email/client/thread/list client_thread.get_list
GET /email/client/thread/messages client_thread.get_messages
PUT /email/client/thread/move client_thread.move
PUT /email/client/thread/set-is-read client_thread.set_is_read
GET /email/config/discover email_config.discover
PUT /email/config/discover/oauth email_config.discover_oauth
PUT /email/config/discover/password email_config.discover_password
PUT /email/convert email.convert
GET /email/disposable/is-disposable disposable_email.is_disposable
PUT /email/from-file email.from_file
GET /email/list email.get_list
GET /email/storage/disc storage.get_disc_usage
PUT /email/storage/file/copy/{path} file.copy_file
PUT /email/storage/file/move/{path} file.move_file
DELETE /email/storage/file/{path} file.delete_file
GET /email/storage/file/{path} file.download_file
PUT /email/storage/file/{path} file.upload_file
PUT /email/storage/folder/copy/{path} folder.copy_folder
PUT /email/storage/folder/move/{path} folder.move_folder
DELETE /email/storage/folder/{path} folder.delete_folder
GET /email/storage/folder/{path} folder.get_files_list
PUT /email/storage/folder/{path} folder.create_folder
GET /email/storage/exist/{path} storage.object_exists
GET /email/storage/version/{path} storage.get_file_versions
GET /email/storage/{storageName}/exist storage.exists
"""

OPERATIONS: tuple[Declared, ...] = tuple(Declared(*line.split()) for line in _LIST.strip().splitlines())
