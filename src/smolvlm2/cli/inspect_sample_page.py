"""One sample as HTML: its media as tiles, its ids as chips."""

from collections.abc import Sequence
from html import escape

from smolvlm2.cli.inspect_pictures import Pictures
from smolvlm2.cli.inspect_samples import InspectedSample, Lengths, Medium, fingerprint
from smolvlm2.cli.inspect_tokens import Chip, Tile, chips, defects, tiles_of_media
from smolvlm2.errors import MediaError
from smolvlm2.processing.images import open_image
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.prompt_strings import clock


def sample_article(
    shown: InspectedSample,
    processor: Processor,
    pictures: Pictures,
    *,
    number: int,
    most_chips: int | None,
) -> str:
    """Draw one sample.

    Args:
        shown: What the model sees of it.
        processor: That made it.
        pictures: Embeds tiles.
        number: Of the sample on the page, from 1; the target of links.
        most_chips: Chips drawn before the rest is only counted; None draws all.
    """
    badges = [shown.entry, shown.subset if shown.subset != shown.entry else "", shown.modality]
    marks = [f"<span class=badge>{escape(text)}</span>" for text in badges if text]
    marks += [f"<span class='badge warn'>{escape(flag)}</span>" for flag in shown.flags]
    if shown.planned is None:
        marks.append("<span class='badge warn'>left out by this recipe</span>")
    if shown.cut:
        marks.append(f"<span class='badge warn'>{shown.cut} messages cut</span>")
    parts = [
        f"<h3><a href='#s{number}'>{escape(shown.sample_id)}</a></h3>",
        f"<p class=badges>{''.join(marks)}</p>",
    ]
    if shown.sample is None:
        parts += [f"<p class=error>{escape(shown.error)}</p>", *map(_unread_medium, shown.media)]
        parts.append(_plain_messages(shown))
    else:
        found = chips(shown.sample, processor.tokenizer)
        wrong = defects(shown.sample, found, processor.tokens_per_tile) + _unplanned(shown)
        parts.append(_numbers(shown))
        parts += [f"<p class=error>{escape(text)}</p>" for text in wrong]
        media = tiles_of_media(shown.sample, found)
        for place, (medium, tiles) in enumerate(zip(shown.media, media, strict=True), start=1):
            parts.append(_medium(medium, place, tiles, shown, processor, pictures))
        parts.append(_tokens(found, most_chips))
    return (
        f"<article class='card sample' id=s{number} data-modality='{escape(shown.modality)}'>"
        f"{''.join(parts)}</article>"
    )


def _numbers(shown: InspectedSample) -> str:
    lengths = shown.lengths
    assert lengths is not None
    share = lengths.supervised / lengths.tokens
    facts = {
        "tokens": f"{lengths.tokens:,}",
        "tiles": f"{lengths.tiles:,}",
        "supervised": f"{lengths.supervised:,} ({share:.0%})",
        "messages": f"{len(shown.messages)}",
        "fingerprint": fingerprint(shown),
    }
    items = [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()]
    return f"<dl class=numbers>{''.join(items)}</dl>"


def _unplanned(shown: InspectedSample) -> list[str]:
    """Where the sample is not what its geometry promised the planner."""
    real = shown.lengths
    if shown.planned is None or real is None or real == shown.planned:
        return []
    return [
        f"planned as {_spell(shown.planned)}, but is {_spell(real)}: its geometry is stale, "
        "prepare the source again"
    ]


def _spell(lengths: Lengths) -> str:
    return (
        f"{lengths.tokens} tokens, {lengths.tiles} tiles and {lengths.supervised} supervised tokens"
    )


def _medium(
    medium: Medium,
    place: int,
    tiles: Sequence[Tile],
    shown: InspectedSample,
    processor: Processor,
    pictures: Pictures,
) -> str:
    assert shown.sample is not None
    drawn = []
    for tile in tiles:
        label = _tile_label(tile)
        chip = tile.chip
        spot = (
            f" style='grid-area:{tile.row + 1}/{(tile.col or 0) + 1}'"
            if tile.row is not None
            else ""
        )
        box = "" if chip is None else f"<b>{chip.count} &times; &lt;image&gt;</b> {chip.positions}"
        drawn.append(
            f"<figure class=tile{spot} data-tile={tile.number}>"
            f"{pictures.tile(shown.sample.tiles[tile.number], label)}"
            f"<figcaption><span>{escape(label)}</span><small>{box}</small></figcaption></figure>"
        )
    head = f"<p class=medium-head>{_medium_head(medium, place, tiles)}</p>"
    if medium.kind == "video":
        return f"<div class=medium>{head}<div class=frames>{''.join(drawn)}</div></div>"
    columns = max((tile.col or 0 for tile in tiles), default=0) + 1
    crops = "".join(drawn[:-1])
    grid = f"<div class=grid style='--columns:{columns}'>{crops}</div>" if crops else ""
    return (
        f"<div class=medium>{head}<div class=image>{_original(medium, processor, pictures)}"
        f"{grid}<div class=whole>{drawn[-1]}</div></div></div>"
    )


def _tile_label(tile: Tile) -> str:
    if tile.time is None:
        return tile.name
    return f"{clock(tile.time)} ({tile.time:.2f} s)"


def _medium_head(medium: Medium, place: int, tiles: Sequence[Tile]) -> str:
    size = f"{medium.width} &times; {medium.height} px"
    where = f"<code>{escape(medium.where)}</code>"
    if medium.kind == "video":
        return (
            f"<b>{place}. video</b> {size}, {medium.duration:.2f} s, {medium.frames} frames at "
            f"{medium.fps:.3g}/s &rarr; {len(tiles)} frames {where}"
        )
    rows = max((tile.row for tile in tiles if tile.row is not None), default=-1) + 1
    cols = max((tile.col for tile in tiles if tile.col is not None), default=-1) + 1
    cut = f"{rows} &times; {cols} tiles and the whole" if rows else "one tile"
    return f"<b>{place}. image</b> {size} &rarr; {cut} {where}"


def _original(medium: Medium, processor: Processor, pictures: Pictures) -> str:
    try:
        image = open_image(medium.source, processor.image)
    except MediaError as error:  # it was read a moment ago
        return f"<p class=error>{escape(str(error))}</p>"
    return (
        f"<figure class=original>{pictures.image(image, 'as published, upright')}<figcaption>"
        f"<span>original</span><small>{image.width} &times; {image.height}</small></figcaption>"
        f"</figure>"
    )


def _unread_medium(medium: Medium) -> str:
    state = "read" if medium.source is not None else "not read"
    return (
        f"<p class=medium-head><b>{medium.kind}</b> {medium.width} &times; {medium.height} px "
        f"<code>{escape(medium.where)}</code> {state}</p>"
    )


def _plain_messages(shown: InspectedSample) -> str:
    """The conversation of a sample that has no ids."""
    lines = []
    for message in shown.messages:
        parts = [
            escape(part["text"]) if part["type"] == "text" else f"<i>[{escape(part['type'])}]</i>"
            for part in message["content"]
        ]
        lines.append(f"<dt>{escape(message['role'])}</dt><dd>{' '.join(parts)}</dd>")
    return f"<dl class=plain>{''.join(lines)}</dl>"


def _tokens(found: Sequence[Chip], most: int | None) -> str:
    drawn = []
    for chip in found[:most]:
        kind = "" if chip.kind == "text" else f" {chip.kind}"
        classes = f"t{kind}{' sup' if chip.supervised else ''}"
        text = escape(chip.shown) + (f" &times; {chip.count}" if chip.kind == "visual" else "")
        # Focusable, so that a tap shows the details too; not on the way of the tab key.
        drawn.append(
            f"<span class='{classes}' tabindex=-1 data-at={chip.start} data-n={chip.count} "
            f"data-d='{escape(chip.details)}'>{text}</span>"
        )
        if b"\n" in chip.data:
            drawn.append("<br>")
    rest = "" if most is None or len(found) <= most else _rest(found[most:])
    return f"<div class=tokens>{''.join(drawn)}</div>{rest}"


def _rest(found: Sequence[Chip]) -> str:
    count = sum(chip.count for chip in found)
    supervised = sum(chip.count for chip in found if chip.supervised)
    return (
        f"<p class=quiet>{count:,} more tokens, {supervised:,} of them supervised, are not drawn; "
        f"--sample with this id draws all.</p>"
    )
