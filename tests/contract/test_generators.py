"""Proto options that tell code generators of other languages their packages."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FileDescriptor

from keyauthority.v1 import error_reason_pb2, key_pb2
from keyauthority_server.rpc import PROTOS

FILES = [error_reason_pb2.DESCRIPTOR, key_pb2.DESCRIPTOR, *(proto.DESCRIPTOR for proto in PROTOS)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_proto_names_its_go_and_java_package(file: FileDescriptor) -> None:
    """protoc-gen-go requires go_package; Java would use one outer class."""
    options = file.GetOptions()
    assert "keyauthority/v1;keyauthorityv1" == options.go_package
    assert "keyauthority.v1" == options.java_package
    assert options.java_multiple_files
