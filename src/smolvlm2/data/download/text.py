"""Numbers and tables for a terminal."""

from collections.abc import Sequence


def show_bytes(size: float) -> str:
    """Bytes in powers of ten, as disks and the hub count them.

    >>> show_bytes(25_850_000_000), show_bytes(999), show_bytes(1_280e9)
    ('25.9 GB', '999 B', '1.28 TB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def show_count(count: int | None) -> str:
    """Rows, short: ``1.88 M``; a question mark where nobody knows.

    >>> show_count(1_880_000), show_count(43_751), show_count(800), show_count(None)
    ('1.88 M', '43.8 k', '800', '?')
    """
    if count is None:
        return "?"
    for unit, scale in ((" M", 1e6), (" k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return str(count)


def show_duration(seconds: float) -> str:
    """Seconds as hours and minutes, or as what is left of them.

    >>> show_duration(11_000), show_duration(90), show_duration(5.2)
    ('3 h 3 min', '1 min 30 s', '5 s')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns as wide as their longest cell; those in ``right`` are aligned to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
