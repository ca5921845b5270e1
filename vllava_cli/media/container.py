"""Opens media files safely: regular files only, by absolute path, in known containers, never a playlist or a protocol.

Every fault of the file or of the libraries below leaves this module as one `MediaError` sentence that names the file.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.file_check import MAX_PIXELS, check_file
from vllava_cli.media.tone_map import TRANSFERS
from vllava_cli.nouns import Clip

# Containers that hold the pictures themselves. Containers that name other files or hosts (hls, concat, dash, sdp, …)
# are left out. The last line is here so that a sound file isn't mistaken for a file that isn't media.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,ogg,asf,mxf,nut,dv,yuv4mpegpipe,"
    "gif,apng,mjpeg,"
    "mp3,wav,flac,aac"
)
OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
_NO_DECODERS = {"codec_whitelist": "none"}

# matroska, mpeg, ogg, asf, gif, png, mp4, avi and webp
_SIGNATURES = re.compile(
    rb"\x1a\x45\xdf\xa3|\0\0\x01\xba|OggS|0&\xb2u|GIF8|\x89PNG|....(ftyp|moov|mdat|wide|free|skip)|RIFF....(AVI |WEBP)",
    re.DOTALL,
)

# PyAV raises these on damaged files: errors of its own tree, and several of Python's.
DECODE_ERRORS = (av.FFmpegError, OSError, ValueError, LookupError, EOFError, OverflowError)


@contextmanager
def opened(path: Path, *, has_decoders: bool = True) -> Iterator[InputContainer]:
    """Opens a file's container for a `with` block; errors of the libraries, in the block too, become a `MediaError`.

    With `has_decoders`, FFmpeg decodes the first frames for facts that the header lacks; with 1080p this takes 40 ms.
    """
    check_file(path)
    options = OPTIONS if has_decoders else OPTIONS | _NO_DECODERS
    try:
        with av.open(f"file:{path.absolute()}", "r", options=dict(options), metadata_errors="replace") as container:
            yield container
    except MemoryError:
        raise
    except DECODE_ERRORS as exc:
        raise MediaError(_fault_of(path, exc)) from exc


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Returns the video stream that a player would show: the default one, else the first one; never cover art."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        what = "sound but no video" if container.streams.audio else "no video"
        raise MediaError(f"{quoted(path)} has {what}. Name a video or an image.")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    context: VideoCodecContext | None = stream.codec_context  # None if FFmpeg has no decoder
    if context is None:
        raise MediaError(f"{quoted(path)} has a codec that can't be decoded here. Convert it to mp4 (H.264).")
    check_size(path, context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def stored_clip(container: InputContainer, stream: VideoStream, path: Path) -> Clip:
    """Returns a video's facts as its container states them; the size is as stored, before rotation.

    `frame_count` is the number of packets that the container announces, 0 if it announces none. For a mov it is the
    length of FFmpeg's index, which leaves out the frames that an edit list cuts. Some containers have several short
    names in FFmpeg; the ending of the file's name chooses among them: "mov,mp4,…" and a.mp4 → "mp4".
    """
    context, names = stream.codec_context, container.format.name.split(",")
    ending = path.suffix.lower().removeprefix(".")
    return Clip(
        path=path,
        kind="video",
        width=context.width,
        height=context.height,
        frame_count=len(stream.index_entries) if "mov" in names else stream.frames,
        codec=codec_name(stream),
        container=ending if ending in names else names[0],
        pixel_format=context.pix_fmt or "",
        transfer=TRANSFERS.get(context.color_trc),
    )


def codec_name(stream: VideoStream) -> str:
    """Returns the codec's name, not the name of the library that decodes it: "av1" for libdav1d."""
    return stream.codec_context.codec.canonical_name


def check_size(path: Path, width: int, height: int) -> None:
    """Raises a `MediaError` for a picture so large that decoding it would be an attack or an accident."""
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise MediaError(f"{quoted(path)} is {width}x{height} pixels, more than {limit} million. Scale it down first.")


def _fault_of(path: Path, exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno == errno.ENOTSUP:  # FFmpeg's converter has no matrix for YCgCo, ICtCp
        return f"{quoted(path)} has colours coded in a way that nothing here can convert. Convert them to BT.709 first."
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(12)
    if _SIGNATURES.match(head):
        return f"{quoted(path)} is truncated or damaged: nothing in it can be decoded. Copy or download it again."
    return f"{quoted(path)} is neither a video nor an image that can be read. Check the file or convert it to mp4."
