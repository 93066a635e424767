"""Messages from peers raise one error only, whichever runtime of protobuf reads them."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

import lattica.nat.pb
from lattica.errors import RemoteProtocolError
from lattica.nat.base.protobuf import decode_text

# Each field that a message of ours could have, with bytes that are no text; alone, beside each
# type of message, and one message deeper.
SCRIPT = """
from google.protobuf.internal.api_implementation import Type
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.public_keys import decode_public_key
from lattica.nat.base.keys.peer_record import open_record
from lattica.nat.services.identify import messages as identify
from lattica.nat.traversal.punch import reverse_messages as reverse
from lattica.nat.traversal.punch.birthday import messages as birthday
from lattica.nat.traversal.punch.dcutr import messages as dcutr
from lattica.nat.traversal.punch.ice import messages as ice

fields = [bytes((number << 3 | 2, 2)) + b"\\xff\\xfe" for number in range(1, 16)]
typed = [bytes((8, value)) + field for value in range(1, 5) for field in fields]
nested = [bytes((number << 3 | 2, len(each))) + each for number in range(1, 6) for each in fields]
refused = 0
for decode in (
    birthday.decode, dcutr.decode, decode_public_key, ice.decode, identify.decode, open_record,
    reverse.decode_answer, reverse.decode_request,
):
    for data in fields + typed + nested:
        try:
            decode(data)
        except RemoteProtocolError:
            refused += 1
print(Type(), refused)
"""


def fields_of(message: Descriptor) -> list[FieldDescriptor]:
    inner = [field for each in message.nested_types for field in fields_of(each)]
    return [*message.fields, *inner]


def test_no_message_has_a_field_that_the_runtimes_check_at_different_times():
    names = [module.name for module in pkgutil.iter_modules(lattica.nat.pb.__path__)]
    fields = [
        field
        for name in names
        for message in importlib.import_module(
            f"lattica.nat.pb.{name}"
        ).DESCRIPTOR.message_types_by_name.values()
        for field in fields_of(message)
    ]
    assert len(fields) > 40
    assert [f.full_name for f in fields if f.type == FieldDescriptor.TYPE_STRING] == []


@pytest.mark.parametrize("runtime", ["upb", "python"])
def test_what_is_no_text_is_the_peers_fault_in_each_runtime(runtime):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": runtime},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    found, refused = result.stdout.split()
    assert found == runtime
    assert int(refused) > 100


def test_decode_text():
    assert decode_text("grün".encode(), "a colour") == "grün"
    with pytest.raises(RemoteProtocolError, match="a colour is not UTF-8"):
        decode_text(b"gr\xfcn", "a colour")
