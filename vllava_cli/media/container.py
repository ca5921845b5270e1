"""Opens media files safely: regular files only, by absolute path, in known containers, never a playlist or a protocol.

Every fault of the file or of the libraries below leaves this module as one `MediaError` sentence that names the file.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vllava_cli.errors import DamagedError, MediaError, quoted
from vllava_cli.media.file_check import MAX_PIXELS, opened_file
from vllava_cli.media.mp4_boxes import stream_part
from vllava_cli.media.unopened import what_it_is

# Containers that hold the pictures themselves. Containers that name other files or hosts (hls, concat, dash, sdp, …)
# are left out. The last line is here so that a sound file isn't mistaken for a file that isn't media.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h263,h264,hevc,av1,obu,ivf,ogg,asf,flv,mxf,nut,dv,"
    "yuv4mpegpipe,gif,apng,mjpeg,"
    "mp3,wav,flac,aac"
)
OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
_NO_DECODERS = {"codec_whitelist": "none"}
_FLV_CODECS = ("h264", "hevc", "av1", "libdav1d", "vp6", "vp6a", "vp6f", "vp8", "vp9", "flv")
"""FFmpeg's decoders that a Flash video may use; "flv" is Sorenson's H.263. Those of screen recordings stay shut."""
_FLV_DECODERS = {"codec_whitelist": ",".join(_FLV_CODECS)}

_DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders for the transparency that a Matroska file keeps beside each picture; FFmpeg's own leave it out."""

# matroska, mpeg, ogg, asf, gif, png, flv, ivf, y4m, nut, mxf, mp4, avi and webp
_SIGNATURES = re.compile(
    rb"\x1a\x45\xdf\xa3|\0\0\x01\xba|OggS|0&\xb2u|GIF8|\x89PNG|FLV\x01|DKIF|YUV4MPEG2|nut/|\x06\x0e\x2b\x34|"
    rb"....(ftyp|moov|mdat|wide|free|skip)|RIFF....(AVI |WEBP)",
    re.DOTALL,
)

# PyAV raises these on damaged files: errors of its own tree, and several of Python's.
DECODE_ERRORS = (av.FFmpegError, OSError, ValueError, LookupError, EOFError, OverflowError)


@contextmanager
def opened(path: Path, *, has_decoders: bool = True) -> Iterator[InputContainer]:
    """Opens a file's container for a `with` block; errors of the libraries, in the block too, become a `MediaError`.

    With `has_decoders`, FFmpeg decodes the first frames for facts that the header lacks; with 1080p this takes 40 ms.
    """
    file = opened_file(path)
    with video_faults(path):
        with file:
            head = file.read(3)
        decoders = _FLV_DECODERS if head == b"FLV" else {}
        options = OPTIONS | (decoders if has_decoders else _NO_DECODERS)
        form = "mjpeg" if head == b"\xff\xd8\xff" else None  # by two pictures FFmpeg doesn't know it
        name = f"file:{path.absolute()}"
        with av.open(name, "r", format=form, options=options, metadata_errors="replace") as container:
            yield container


@contextmanager
def video_faults(path: Path) -> Iterator[None]:
    """Turns errors of the libraries, raised in a `with` block that reads a video, into a `MediaError`."""
    try:
        yield
    except MemoryError:
        raise
    except DECODE_ERRORS as exc:
        raise _fault_of(path, exc) from exc


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Returns the video stream that a player would show: the default one, else the first one; never cover art."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        what = "sound but no video" if container.streams.audio else "no video"
        raise MediaError(f"{quoted(path)} has {what}. Name a video or an image.")
    if "msf1" in container.metadata.get("compatible_brands", ""):  # HEIF: a sequence comes before the still pictures
        streams.sort(key=lambda stream: stream.frames <= 1)
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    context: VideoCodecContext | None = stream.codec_context  # None if FFmpeg has no decoder
    if context is None:
        raise MediaError(f"{quoted(path)} has a codec that can't be decoded here. Convert it to mp4 (H.264).")
    if container.format.name == "flv" and context.name not in _FLV_CODECS:
        fault = f"{quoted(path)} is a Flash video coded in {codec_name(stream)}, which vllava doesn't open"
        raise MediaError(f"{fault}. Convert it to mp4 (H.264).")
    check_size(path, context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """Returns the decoder for a stream's packets: the stream's own, or one that reads a WebM's transparency as well."""
    if not has_alpha_beside(stream):
        return stream.codec_context
    decoder = cast(VideoCodecContext, av.CodecContext.create(_DECODERS_WITH_ALPHA[stream.codec_context.name], "r"))
    decoder.options = stream.codec_context.options
    return decoder


def has_alpha_beside(stream: VideoStream) -> bool:
    """Returns True if a Matroska file keeps how transparent a picture is beside it, and a decoder here reads that."""
    has_it = stream.metadata.get("alpha_mode") == "1"
    return has_it and _DECODERS_WITH_ALPHA.get(stream.codec_context.name) in av.codecs_available


def codec_name(stream: VideoStream) -> str:
    """Returns the codec's name, not the name of the library that decodes it: "av1" for libdav1d."""
    return stream.codec_context.codec.canonical_name


def check_size(path: Path, width: int, height: int) -> None:
    """Raises a `MediaError` for a picture so large that decoding it would be an attack or an accident."""
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise MediaError(f"{quoted(path)} is {width}x{height} pixels, more than {limit} million. Scale it down first.")


def _fault_of(path: Path, exc: Exception) -> MediaError:
    if isinstance(exc, OSError) and exc.errno == errno.ENOTSUP:  # FFmpeg's converter has no matrix for YCgCo, ICtCp
        return MediaError(
            f"{quoted(path)} has colours coded in a way that nothing here can convert. Convert them to BT.709 first."
        )
    if part := stream_part(path):
        return MediaError(part)
    if what := what_it_is(path):
        return MediaError(f"{quoted(path)} is {what}.")
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(12)
    if _SIGNATURES.match(head):
        return DamagedError(
            f"{quoted(path)} is truncated or damaged: nothing in it can be decoded. Copy or download it again."
        )
    return MediaError(
        f"{quoted(path)} is neither a video nor an image that can be read. Check the file or convert it to mp4."
    )
