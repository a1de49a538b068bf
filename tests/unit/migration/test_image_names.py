"""What images and their content are called."""

import pytest

from protocol.messages import ImageFormat
from storage.names import MAX_NAME, check_name
from xenmoved.migration.image_names import format_in, name_of_content, name_of_image


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("web.qcow2", "web"),
        ("web.img", "web.img-raw"),
        ("web.vhd", "web.vhd-raw"),
        ("qcow2", "qcow2-raw"),
        ("w" * MAX_NAME, "w" * (MAX_NAME - 4) + "-raw"),
    ],
)
def test_content_is_never_called_as_the_image(name, called):
    assert name_of_content(name, ImageFormat.QCOW2) == called
    check_name("images", called)


@pytest.mark.parametrize("name", ["web", "web.img", "web.vhd", "web.img-raw"])
def test_content_goes_back_to_the_image_that_was_made_for_it(name):
    image = name_of_image(name, ImageFormat.QCOW2)
    assert image == f"{name}.qcow2"
    assert name_of_content(image, ImageFormat.QCOW2) == name
    assert name_of_image(image, ImageFormat.QCOW2) == image


def test_a_long_name_is_cut():
    check_name("images", name_of_image("w" * MAX_NAME, ImageFormat.VHD))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("web.qcow2", "qcow2"), ("web.vhd", "vhd"), ("web.raw", "raw")),
        *(("web", None), ("qcow2", None), ("web.img", None), ("web.qcow2.img", None)),
    ],
)
def test_what_an_ending_asks_for(name, kind):
    assert format_in(name) == kind
