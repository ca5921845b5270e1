"""Carries out what was entered: one function for each slash command that is more than a call of `Talk`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from vllava_cli.commands.chat import slash
from vllava_cli.commands.chat.markdown import markdown
from vllava_cli.commands.chat.moments import moments
from vllava_cli.commands.chat.revive import Clips, changes, clips_of, revived
from vllava_cli.commands.chat.show import show_rows
from vllava_cli.commands.chat.talk import Talk
from vllava_cli.commands.pictures import check_free, make_folder, title_of, write, write_sheet
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Conversation, Frames, Framing
from vllava_cli.session import SessionRecord, read, write_copy


def perform(talk: Talk, entry: slash.Entry) -> None:
    """Does what an entry says; `Bye`, and an `Edit` without words, are the caller's. Errors: any VllavaError."""
    match entry:
        case slash.Question(text=text):
            talk.ask(text)
        case slash.Open(paths=paths, framing=framing):
            talk.open(_clips(talk, paths, framing))
        case slash.Add(paths=paths, framing=framing):
            talk.add(_clips(talk, paths, framing))
        case slash.ShowFrames():
            _frames(talk, entry)
        case slash.Retry(changes=changed):
            talk.retry(changed)
        case slash.Undo():
            talk.undo()
        case slash.Edit(number=number, question=question):
            talk.edit(number, question or "")
        case slash.Set(name=name, value=value):
            _set(talk, name, value)
        case slash.Show():
            _show(talk)
        case slash.Save(path=path, is_overwriting=is_overwriting):
            _check_free("save", path, is_overwriting=is_overwriting)
            write_copy(path, talk.keeping.record(talk.conversation), is_overwriting=is_overwriting)
            talk.screen.notice(f"Saved in {path}.")
        case slash.Load(path=path):
            load(talk, read(path))
        case slash.Export(path=path, is_overwriting=is_overwriting):
            _export(talk, path, is_overwriting=is_overwriting)
        case slash.Clear():
            talk.clear()
        case slash.Help(topic=topic):
            talk.screen.facts(slash.help_rows(topic))
        case slash.Bye():
            pass


def load(talk: Talk, record: SessionRecord) -> None:
    """Goes on with a session that was saved, in a file of its own. Errors: those of reading its clips."""
    clips = clips_of(record)
    media = talk.read(clips)
    say_changes(talk, record)
    conversation, renewed = revived(
        record, dict(zip(clips, media, strict=True)), talk.engine.tokens, model=talk.keeping.model
    )
    talk.engine.tokens.prompt_ids(Conversation(attached=conversation.media, fit=record.fit), "?")
    say_renewed(talk, renewed)
    talk.take_over(conversation)
    talk.screen.notice(resumed(talk))


def say_changes(talk: Talk, record: SessionRecord) -> None:
    """Says which clips aren't what they were."""
    with talk.screen.waiting("Comparing the clips with what they were"):
        found = changes(record)
    for change in found:
        talk.screen.notice(f"vllava: warning: {change}")


def say_renewed(talk: Talk, renewed: int) -> None:
    """Says how many answers aren't this model's own tokens."""
    if renewed:
        talk.screen.notice(
            f"vllava: warning: {renewed} answer{'s' * (renewed != 1)} of another model, or edited since: read as text."
        )


def resumed(talk: Talk) -> str:
    """ "Going on after 3 turns. About clip.mp4. The last question: What moves?" """
    count = len(talk.conversation.turns)
    last = f" The last question: {' '.join(talk.questions[-1].split())}" if count else ""
    return f"Going on after {count} turn{'s' * (count != 1)}. {talk.about()}{last}"


def _clips(talk: Talk, paths: tuple[Path, ...], framing: Framing) -> Clips:
    return tuple((path, replace(framing, fit=talk.conversation.fit)) for path in paths)


def _frames(talk: Talk, entry: slash.ShowFrames) -> None:
    media = tuple(dict.fromkeys(talk.conversation.media))
    recipe = talk.engine.tokens.checkpoint.video_recipe
    if not media:
        raise UsageError(talk.about())
    if entry.path and entry.is_folder:
        make_folder(entry.path)
    if entry.path and len(media) > 1 and not os.path.isdir(entry.path):
        raise UsageError(f"There are {len(media)} clips: name a folder for their sheets, or no file at all.")
    for frames in media:
        if entry.is_drawn:
            _draw(talk, frames)
        sheet = None if entry.is_drawn and not entry.path else entry.path or Path()
        rows = [(title_of(frames.clip.path), moments(frames))]
        if sheet is not None:
            rows.append(("sheet", str(write_sheet(frames, recipe, sheet, fit=talk.conversation.fit))))
        talk.screen.facts(rows)


def _draw(talk: Talk, frames: Frames) -> None:
    from vllava_cli.media.sheet import Sheet, tiled

    if not talk.screen.is_terminal:
        raise UsageError("--show draws in a terminal, and stdout is none here. Name a file instead.")
    recipe = talk.engine.tokens.checkpoint.video_recipe
    fit = talk.conversation.fit
    talk.screen.picture(Sheet.of(tiled(frames, recipe, fit=fit), title_of(frames.clip.path), recipe, fit=fit))


def _set(talk: Talk, name: str | None, value: str | None) -> None:
    if name is None or value is None:
        talk.screen.facts(talk.settings.rows())
        return
    talk.settings = talk.settings.changed(name, value)
    talk.screen.is_verbose = talk.settings.is_verbose
    talk.screen.facts([row for row in talk.settings.rows() if row[0] == name])


def _show(talk: Talk) -> None:
    file = talk.keeping.file
    kept_in = str(file.path) if file else "a file that begins with the first answer"
    talk.screen.facts(show_rows(talk.engine, talk.conversation, talk.settings, kept_in=kept_in))


def _check_free(command: str, path: Path, *, is_overwriting: bool) -> None:
    if not is_overwriting:
        check_free(path, f"/{command} --overwrite FILE replaces it.")


def _export(talk: Talk, path: Path, *, is_overwriting: bool) -> None:
    _check_free("export", path, is_overwriting=is_overwriting)
    text = markdown(talk.conversation, model=talk.keeping.model)
    write(path, text.encode(), is_overwriting=is_overwriting, mode=0o600)
    talk.screen.notice(f"Exported to {path}.")
