"""--ray with and without an address behind it."""

import pytest

from vllava_cli.cluster.address import with_address


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["batch", "Why?", "a.mp4", "--ray"], ["batch", "Why?", "a.mp4", "--ray=local"]),
        (["batch", "--ray", "Why?", "a.mp4"], ["batch", "--ray=local", "Why?", "a.mp4"]),
        (["batch", "--ray", "-o", "out"], ["batch", "--ray=local", "-o", "out"]),
        (["batch", "--ray", "ray://head:10001", "Why?"], ["batch", "--ray", "ray://head:10001", "Why?"]),
        (["batch", "--ray", "10.0.0.7:6379", "Why?"], ["batch", "--ray", "10.0.0.7:6379", "Why?"]),
        (["batch", "--ray", "[fd00::7]:6379", "Why?"], ["batch", "--ray", "[fd00::7]:6379", "Why?"]),
        (["batch", "--ray", "auto", "Why?"], ["batch", "--ray", "auto", "Why?"]),
        (["batch", "--ray", "local", "Why?"], ["batch", "--ray", "local", "Why?"]),
        (["batch", "--ray=head:1", "a.mp4"], ["batch", "--ray=head:1", "a.mp4"]),
        (["batch", "--ray", "s3://bucket/a.mp4"], ["batch", "--ray=local", "s3://bucket/a.mp4"]),
        (["batch", "--ray", "automatic"], ["batch", "--ray=local", "automatic"]),
        (["batch", "--", "--ray"], ["batch", "--", "--ray"]),
        (["batch", "--ray", "--", "auto"], ["batch", "--ray=local", "--", "auto"]),
        (["batch", "Why?"], ["batch", "Why?"]),
    ],
)
def test_an_address_belongs_to_the_option_and_nothing_else_does(words: list[str], found: list[str]) -> None:
    assert with_address(words) == found
