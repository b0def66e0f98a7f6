"""Chooses the genres of a table: renames them, and leaves out rare ones."""

import collections
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import NamedTuple

from mmgc_jax.runtime.errors import InputError, did_you_mean

_MOST_SHOWN = 20


class Wanted(NamedTuple):
    """The parsed content of `config.data.genres`.

    Attributes:
      only: the genres to use; empty for those that the table has.
      renamed: new name of genres; an empty one leaves the genre out.
    """

    only: Sequence[str]
    renamed: Mapping[str, str]


def parse(entries: Sequence[str]) -> Wanted:
    """Parses `config.data.genres`.

    >>> parse(["Drama", "Science Fiction=Sci-Fi"])
    Wanted(only=['Drama', 'Sci-Fi'], renamed={'Science Fiction': 'Sci-Fi'})

    Args:
      entries: names, such as `Drama`, and renamings, such as `Science Fiction=Sci-Fi`. If there are
        names, only these genres are used, and the new names of the renamings.
    """
    pairs = [tuple(part.strip() for part in entry.partition("=")[::2]) for entry in entries]
    renamed = {old: new for entry, (old, new) in zip(entries, pairs) if "=" in entry}
    only = [name for entry, (name, _) in zip(entries, pairs) if "=" not in entry]
    if only:
        only += [new for new in renamed.values() if new and new not in only]
    return Wanted(only, renamed)


def choose(
    of_movies: Sequence[Sequence[str]],
    counted: Sequence[bool],
    wanted: Wanted,
    min_positives: int,
    place: str,
) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
    """Chooses the genres that are predicted.

    Args:
      of_movies: the genres of each movie, as the table has them.
      counted: whether each movie counts for `min_positives`: those of the test part do not.
      wanted: as `parse` returns it.
      min_positives: genres of fewer movies are left out, unless `wanted` names them.
      place: the table, for messages.

    Returns:
      The genres in alphabetical order; the chosen genres of each movie; and sentences on what was
      renamed or left out.

    Raises:
      InputError: if no genre is left, or a genre that `wanted` names is not in the table.
    """
    renamed = [
        tuple(dict.fromkeys(new for name in names if (new := wanted.renamed.get(name, name))))
        for names in of_movies
    ]
    in_table = {name for names in of_movies for name in names}
    counts = collections.Counter(dict.fromkeys((name for names in renamed for name in names), 0))
    for names, is_counted in zip(renamed, counted):
        counts.update(names if is_counted else ())
    _require_known(wanted.renamed, in_table, place)
    if wanted.only:
        _require_known(wanted.only, counts, place)
        chosen = sorted(wanted.only)
    else:
        chosen = sorted(name for name, count in counts.items() if count >= min_positives)
    if not chosen:
        most = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
        raise InputError(
            f"{place}: no genre has at least config.data.min_positives={min_positives} movies. "
            + (f"The most frequent: {most}." if most else "No movie has a genre.")
        )
    notes = [f"{_counted(chosen)}: {listed(chosen)}."]
    if wanted.renamed:
        notes.append(f"{_counted(wanted.renamed)} renamed or left out by config.data.genres.")
    kept = set(chosen)
    rare = sorted(counts.keys() - kept, key=lambda name: (-counts[name], name))
    if rare and not wanted.only:
        have = "have it" if len(rare) == 1 else "have them"
        notes.append(
            f"{_counted(rare)} left out, because fewer than {min_positives} movies {have}: "
            f"{listed([f'{name} ({counts[name]})' for name in rare])}."
        )
    elif rare:
        notes.append(
            f"{_counted(rare)} left out, which config.data.genres does not name: {listed(rare)}."
        )
    return chosen, [tuple(n for n in names if n in kept) for names in renamed], notes


def _require_known(names: Iterable[str], known: Iterable[str], place: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise InputError(
                f"config.data.genres has {name!r}, which no movie of {place} has. "
                + (did_you_mean(name, known, "{!r}") or f"It has: {listed(sorted(known))}.")
            )


def _counted(names: Sized) -> str:
    return f"{len(names)} genre{'' if len(names) == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Joins names by commas; of many, names the first and counts the others."""
    shown = ", ".join(names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown
