"""Looks into a store of verdicts, moves verdicts in and out, mends it.

python -m lmtx_jax.teacher.verdicts --store=FILE [one action]

Without an action: a table of what the store holds, by teacher.

Export and import are JSON lines, .gz if the name ends so: {"teacher": {...},
"document": hex, "label": hex, "answer": "yes"|"no"|"invalid", "p_yes": number
or null, "asked_by": name}; document and label are digests of the texts. An
answer that is there already is never changed by --import_from or --merge_from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import textwrap
from typing import Any

from absl import flags

from lmtx_jax import cli
from lmtx_jax.teacher.verdict_exchange import add, export, merge, read_lines
from lmtx_jax.teacher.verdict_file import VerdictFile, repair_hint
from lmtx_jax.teacher.verdict_repair import repair
from lmtx_jax.types import INVALID, NO, YES, UserError

_WIDTH = 100
_ACTIONS = ('export_to', 'import_from', 'merge_from', 'check', 'repair')
_HEAD_KEYS = ('teacher', 'model', 'prompt')


@dataclasses.dataclass(frozen=True)
class VerdictsConfig:
  """Verdicts."""

  store: str = cli.flag('', 'The store, such as RUN/verdicts.sqlite; needed.')
  export_to: str = cli.flag('', 'Writes all verdicts to this file.')
  import_from: str = cli.flag(
    '', 'Adds the verdicts of this file; makes the store if there is none.'
  )
  merge_from: str = cli.flag(
    '',
    'Adds what this other store knows, which may be in use; makes the store if'
    ' there is none.',
  )
  check: bool = cli.flag(False, 'Looks for damage.')
  repair: bool = cli.flag(
    False,
    'Puts a new store with all verdicts that can be read in place of a damaged'
    ' one, which is kept as FILE.damaged.',
  )


def main(values: flags.FlagValues) -> None:
  """Does what the flags say and prints what came of it."""
  config = cli.build(VerdictsConfig, values)
  actions = [name for name in _ACTIONS if getattr(config, name)]
  if not config.store:
    raise UserError('which store? name it with --store=FILE')
  if len(actions) > 1:
    raise UserError(
      f'one action at a time, not both --{actions[0]} and --{actions[1]}'
    )
  print(_COMMANDS[actions[0]](config) if actions else show(config.store))


def show(path: str) -> str:
  """What a store holds, a few lines for each teacher."""
  with contextlib.closing(_open(path)) as file, file.user_errors():
    counts = file.db.execute(
      'SELECT teacher, asked_by, answer, COUNT(*) FROM verdicts '
      'GROUP BY 1, 2, 3'
    ).fetchall()
    teachers, usage = file.names('teachers'), file.usage()
  if not counts:
    return f'{path}: no verdicts'
  blocks = []
  for teacher in sorted({row[0] for row in counts}):
    answers = dict.fromkeys((YES, NO, INVALID), 0)
    askers = set()
    for _, asker, answer, count in filter(lambda r: r[0] == teacher, counts):
      answers[answer] += count
      askers.add(asker)
    spent: dict[str, float] = {}
    for asker in askers:
      for name, value in usage.get(asker, {}).items():
        spent[name] = spent.get(name, 0) + value
    lines = _identity(teachers[teacher])
    lines += [_answers(answers), _cost(len(askers), spent)]
    blocks.append('\n  '.join(lines))
  return '\n\n'.join(blocks)


def _identity(identity: str) -> list[str]:
  """Lines of who a teacher is."""
  try:
    known: dict[str, Any] = dict(json.loads(identity))
  except (ValueError, TypeError):
    return [_short(identity, _WIDTH)]
  names = [str(known[key]) for key in ('teacher', 'model') if key in known]
  rest = ', '.join(
    f'{key}={_short(value, 40)}'
    for key, value in known.items()
    if key not in _HEAD_KEYS
  )
  lines = [_short(' '.join(names) or identity, _WIDTH)]
  lines += textwrap.wrap(rest, _WIDTH - 2)
  if 'prompt' in known:
    lines.append(f'prompt: {_short(known["prompt"], _WIDTH - 10)}')
  return lines


def _answers(answers: dict[int, int]) -> str:
  total = sum(answers.values())
  return (
    f'{total:,} pairs: {answers[YES]:,} yes ({answers[YES] / total:.2%}), '
    f'{answers[NO]:,} no, {answers[INVALID]:,} invalid'
  )


def _cost(num_askers: int, spent: dict[str, float]) -> str:
  parts = [f'asked by {num_askers:,} stage{"s" if num_askers != 1 else ""}']
  spent = dict(spent)
  tokens, cached = (
    spent.pop(name, 0) for name in ('prompt_tokens', 'cached_tokens')
  )
  if tokens:
    parts.append(f'{tokens:,.0f} prompt tokens ({cached / tokens:.0%} cached)')
  if 'seconds' in spent:
    parts.append(f'{spent.pop("seconds"):,.0f} s')
  parts += [f'{name} {value:,.0f}' for name, value in sorted(spent.items())]
  return _short('; '.join(parts), _WIDTH - 2)


def _short(value: Any, width: int) -> str:
  """A value on one line, cut to a width."""
  text = ' '.join(str(value).split())
  return text if len(text) <= width else f'{text[: width - 3]}...'


def _export(config: VerdictsConfig) -> str:
  path = config.export_to
  _check_other(config, path, 'export_to')
  with contextlib.closing(_open(config.store)) as file:
    count = export(file, path)
  return f'{path}: {count:,} verdicts'


def _import(config: VerdictsConfig) -> str:
  path = config.import_from
  _check_other(config, path, 'import_from')
  if os.path.exists(path) and not os.path.isfile(path):
    raise UserError(f'--import_from={path} must be a file: it is read twice')
  for _ in read_lines(path):
    pass  # a bad line is found before any is stored
  with contextlib.closing(_open(config.store, 'create')) as file:
    num_read, num_added = add(file, read_lines(path))
  return _added(config.store, num_read, num_added)


def _merge(config: VerdictsConfig) -> str:
  path = config.merge_from
  _check_other(config, path, 'merge_from')
  with (
    contextlib.closing(VerdictFile(path, 'read', '--merge_from')) as other,
    contextlib.closing(_open(config.store, 'create')) as file,
  ):
    num_read, num_added = merge(file, other)
  return _added(config.store, num_read, num_added)


def _check(config: VerdictsConfig) -> str:
  path = config.store
  with contextlib.closing(_open(path)) as file, file.user_errors():
    (finding,) = file.db.execute('PRAGMA integrity_check(1)').fetchone()
    if (
      finding == 'ok' and file.db.execute('PRAGMA foreign_key_check').fetchone()
    ):
      finding = 'verdicts without their teacher or asker'
    if finding != 'ok':
      finding = ' '.join(
        finding.removeprefix('*** in database main ***').split()
      )
      raise UserError(
        f'verdict store {path} is damaged: {finding}{repair_hint(path)}'
      )
    counts = [
      file.db.execute(f'SELECT COUNT(*) FROM {table}').fetchone()[0]
      for table in ('verdicts', 'teachers', 'askers')
    ]
  return '{}: ok, {:,} verdicts of {:,} teachers, asked by {:,} stages'.format(
    path, *counts
  )


def _repair(config: VerdictsConfig) -> str:
  num_saved, damaged = repair(config.store, '--store')
  return (
    f'{config.store}: {num_saved:,} verdicts saved; the old file is {damaged}'
  )


_COMMANDS = dict(
  zip(_ACTIONS, (_export, _import, _merge, _check, _repair), strict=True)
)


def _open(path: str, mode: str = 'read') -> VerdictFile:
  return VerdictFile(path, mode, '--store')


def _check_other(config: VerdictsConfig, path: str, flag: str) -> None:
  both = os.path.exists(path) and os.path.exists(config.store)
  if both and os.path.samefile(path, config.store):
    raise UserError(f'--{flag}={path} is the store itself')


def _added(path: str, num_read: int, num_added: int) -> str:
  return (
    f'{path}: {num_added:,} verdicts added, {num_read - num_added:,} were there'
  )


if __name__ == '__main__':
  cli.run(main, (VerdictsConfig,), __doc__)
