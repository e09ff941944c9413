"""The address of a role's server, as users write it and as it is stored."""

from collections.abc import Mapping
from typing import Any, Final

from ..model.role import Role
from ..servers.address import clean_url, is_azure, server_id, split_credentials

_AUTHORIZATION: Final = "Authorization"


def clean_address(
    values: dict[str, Any], role: Role, stored: Mapping[str, Any]
) -> str | None:
    """Put the address of a role's server in values into its plain form.

    A user and a password in it become a header, so that no log, unique id or error
    text has them. Without headers in values, those in stored, the configuration so
    far, stay as long as the server is the same. Return the translation key of an
    error, or None.
    """
    url_key = role.key("base_url")
    headers_key = role.key("proxy_headers")
    api_key = values.get(role.key("api_key"))
    try:
        url, header = split_credentials(clean_url(values[url_key]))
    except ValueError:
        return "invalid_url"
    if header and api_key and not is_azure(url):
        # Both belong in the header Authorization.
        return "cannot_use_both"
    before = stored.get(url_key)
    is_same = before is not None and server_id(before) == server_id(url)
    old = (stored.get(headers_key) or {}) if is_same else {}
    headers = dict(values.get(headers_key, old))
    if api_key and not is_azure(url) and (password := headers.get(_AUTHORIZATION)):
        if password != old.get(_AUTHORIZATION):
            return "cannot_use_both"
        # A new key takes the place of a stored password.
        del headers[_AUTHORIZATION]
    headers |= header
    values[url_key] = url
    values.pop(headers_key, None)
    if headers:
        values[headers_key] = headers
    return None


def without_credentials(data: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return stored data with the user and password of an address in a header.

    Earlier versions stored the address as it was typed.
    """
    result = dict(data)
    if address := data.get(role.key("base_url")):
        url, header = split_credentials(address)
        if header:
            headers_key = role.key("proxy_headers")
            result[role.key("base_url")] = url
            result[headers_key] = {**(data.get(headers_key) or {}), **header}
    return result
