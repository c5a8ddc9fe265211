"""How the answers of an LLM to ICXML's questions are read."""

from __future__ import annotations

import json
import re

MAX_CHARS = 200  # of a title or a label; a longer line is talk

_THOUGHT_END = '</think>'
# Of an item of a list: a dash, a bullet, a number; perhaps in bold.
_MARK = re.compile(r'\s*(?:\*\*)?(?:[-*+\u2013\u2022]|\(?\d{1,3}[.):])\s+')
_HEAD = re.compile(r'^\s*(?:titles?|labels?|tags?|answers?)\s*:\s*', re.I)
_ARRAY = re.compile(r'\[[^\[\]]*\]')
_FRAME = ' \t\r"\'`*_,;\u201c\u201d\u2018\u2019'  # around an item


def read_items(text: str, is_cut: bool, most: int, splits: bool) -> list[str]:
  """The items of a list, in whatever form it was written.

  Args:
    text: the answer.
    is_cut: whether it broke off; its last item is then half of one.
    most: items to read at most.
    splits: whether a single line is split at its commas or semicolons.

  Returns:
    Different items, in their order; none if there is no list.
  """
  text = text.rpartition(_THOUGHT_END)[2].strip()
  items = _of_json(text)
  if items is None:
    items = _of_lines(text, splits)
    if is_cut and len(items) > 1:
      items = items[:-1]
  found: dict[str, str] = {}
  for item in items:
    item = ' '.join(item.split()).strip(_FRAME)
    if len(item) <= MAX_CHARS and any(map(str.isalnum, item)):
      found.setdefault(normalised(item), item)
  return list(found.values())[:most]


def read_picks(text: str, num_labels: int, most: int) -> list[int] | None:
  """Positions that were picked from a list, counted from 0.

  Args:
    text: the answer, a JSON list of numbers counted from 1.
    num_labels: length of the list.
    most: picks to read at most.

  Returns:
    The picks, or None if the answer is no JSON list, is empty, names what is
    not on the list, or names something twice.
  """
  match = _ARRAY.search(text.rpartition(_THOUGHT_END)[2])
  if not match:
    return None
  try:
    numbers = json.loads(match[0])
    picks = [_whole(number) - 1 for number in numbers]
  except (ValueError, TypeError):
    return None
  if not picks or len(set(picks)) < len(picks):
    return None
  if not all(0 <= pick < num_labels for pick in picks):
    return None
  return picks[:most]


def normalised(text: str) -> str:
  """A title or a label, so that spellings of the same are the same."""
  return ' '.join(text.casefold().split())


def _of_json(text: str) -> list[str] | None:
  """The strings of a JSON list, None if there is none."""
  match = _ARRAY.search(text)
  if not match:
    return None
  try:
    items = json.loads(match[0])
  except ValueError:
    return None
  strings = [item for item in items if isinstance(item, str)]
  # Else it is a remark in brackets, within a list of another form.
  return strings if strings or match[0] == text else None


def _of_lines(text: str, splits: bool) -> list[str]:
  """The lines that look like items: those with a mark, if any has one."""
  lines = [line for line in text.splitlines() if line.strip()]
  marked = [line[m.end() :] for line in lines if (m := _MARK.match(line))]
  if marked:
    return marked
  # A list of JSON that broke off comes here too.
  lines = [line.lstrip(' [') for line in lines]
  lines = [_HEAD.sub('', line, count=1) for line in lines]
  lines = [x for x in lines if x.strip() and not x.rstrip().endswith(':')]
  if len(lines) != 1 or not splits:
    return lines
  (line,) = lines
  return line.split(';' if ';' in line else ',')


def _whole(number: int | str) -> int:
  """A whole number; JSON's true and 1.5 are none, "3" is."""
  if isinstance(number, bool | float):
    raise ValueError(number)
  return int(number)
