"""The protos of `keyauthority.v1` with their comments, as `buf` describes them."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = "keyauthority.v1"

# Numbers of fields in descriptor.proto, of which the paths of comments consist.
MESSAGE: Final = 4
ENUM: Final = 5
SERVICE: Final = 6
MEMBER: Final = 2  # a field of a message, a value of an enum, a method of a service

Place = tuple[int, ...]


class ProtoFile:
    """A proto file and the comments in it."""

    def __init__(self, descriptor: FileDescriptorProto) -> None:
        self.descriptor = descriptor
        self._comments = {
            tuple(location.path): location.leading_comments
            for location in descriptor.source_code_info.location
        }

    def paragraphs(self, *place: int) -> list[str]:
        """Return the comment before an element, a line for each paragraph."""
        text = self._comments.get(place, "")
        return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]

    def comment(self, *place: int) -> str:
        """Return the comment before an element on one line."""
        return " ".join(self.paragraphs(*place))


@functools.cache
def files() -> tuple[ProtoFile, ...]:
    """Return the files of the package; raises CalledProcessError if `buf` refuses them."""
    buf = str(Path(sys.executable).parent / "buf")
    command = [buf, "build", "protos", "--output", "-"]
    image = subprocess.run(  # noqa: S603 - the project's own protos
        command, cwd=ROOT, capture_output=True, check=True
    ).stdout
    found = FileDescriptorSet.FromString(image).file
    return tuple(ProtoFile(file) for file in found if file.package == PACKAGE)
