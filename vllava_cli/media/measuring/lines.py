"""What a race found, as the lines of bench's table; a note for each figure that is missing. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vllava_cli.measures import Line, Measured
from vllava_cli.media.measuring.race import FFMPEG, FLOORS, GUARDED, OURS, TORCHCODEC, Race, Result
from vllava_cli.nouns import FRAMES_PER_CLIP, Clip

_RIVALS = ((TORCHCODEC, "torchcodec's exact mode"), (FFMPEG, "the ffmpeg command"))


def has_rivals(clip: Clip) -> bool:
    """Whether there is anything that the loop could do with it."""
    return clip.kind == "video" and clip.container != "folder"


def guarded_line(race: Race, clip: Clip) -> Line:
    """What a user waits for, beside the documentation's loop and the floor."""
    return _line("frames", replace(race, ours_way=GUARDED), clip)


def lines(race: Race, clip: Clip) -> Iterator[Line]:
    """All that was measured of a clip; those of rivals have them in the snippet's place."""
    yield guarded_line(race, clip)
    yield _line("frames, no guard", replace(race, ours_way=OURS), clip)
    for way, name in _RIVALS:
        if way in race.results:
            yield _beside(race, way, name)
    if ours := _peak(race.of(OURS)):
        yield Line(name="peak memory", unit="MiB", ours=ours, snippet=_peak(race.loop))


def _line(name: str, race: Race, clip: Clip) -> Line:
    return Line(
        name=name,
        unit="s",
        ours=_measured(race.ours),
        snippet=_measured(race.loop),
        limit=race.floor.median_s,
        note=" ".join(_notes(race, clip)),
    )


def _beside(race: Race, way: str, name: str) -> Line:
    rival = race.of(way)
    note = f"The second figure is that of {name}, not of the documentation's loop."
    if rival.fault:
        note = _sentence(f"There is no figure of {name}: {rival.fault}")
    elif rival.times_s and race.truth.times_s and not race.has_times_of(way):
        note += " It gives frames of other times."
    return Line(name=f"beside {way}", unit="s", ours=_measured(race.ours), snippet=_measured(rival), note=note)


def _notes(race: Race, clip: Clip) -> Iterator[str]:
    """A sentence for each figure that is missing."""
    if not has_rivals(clip):
        yield "The documentation's loop reads videos only, and a picture has no floor: there is nothing to search."
        return
    if race.ours.fault:
        yield _sentence(f"There is no figure of ours: {race.ours.fault}")
    if race.loop.fault:
        yield _sentence(f"There is no figure of the documentation's loop: {race.loop.fault}")
    elif race.loop.digest and len(race.loop.times_s) != FRAMES_PER_CLIP:
        count = len(race.loop.times_s)
        yield f"The documentation's loop finds {count} frame{'s' * (count != 1)} of the {FRAMES_PER_CLIP}."
    if race.floor.median_s is None:
        yield _sentence(f"The limit isn't known: {_why_no_floor(race)}")


def _why_no_floor(race: Race) -> str:
    fault = next((race.of(way).fault for way in FLOORS if race.of(way).fault), "")
    return fault or "a decoder that trusts the file's key frames and time stamps gets other frames"


def _measured(result: Result) -> Measured | None:
    return Measured(values=result.seconds) if result.seconds else None


def _peak(result: Result) -> Measured | None:
    return None if result.mib is None else Measured(values=(result.mib,))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
