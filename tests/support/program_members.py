"""Program files taken apart and put together again, as somebody does who knows the format."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

Members = dict[str, bytes]


def unpack(data: bytes) -> tuple[dict[str, Any], Members]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("program.json")), members


def pack(document: object, members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("program.json", document if isinstance(document, str | bytes) else json.dumps(document))
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def signed(document: dict[str, Any], members: Members) -> bytes:
    """Pack with digests brought up to date: the work of someone who knows the format."""
    facts = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in members.items()}
    return pack({**document, "members": facts}, members)
