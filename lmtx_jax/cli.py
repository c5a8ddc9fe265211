"""How every command starts and fails: flags in, one line of error out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import errno
import functools
import logging as std_logging
import os
import shlex
import sys
import textwrap
import typing

from absl import flags, logging

from lmtx_jax.interrupts import Preempted, raise_when_preempted
from lmtx_jax.types import UserError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143

_DEFINE = {
  bool: flags.DEFINE_boolean,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
}


def flag(
  default,
  help_text: str,
  *,
  choices: Sequence[str] = (),
  low: float | None = None,
  high: float | None = None,
  operational: bool = False,
):
  """A field of a config dataclass that is also a command-line flag.

  Args:
    default: its default value.
    help_text: one sentence for `--help`, with the unit.
    choices: the only strings allowed, where there is such a list.
    low: smallest number allowed.
    high: largest number allowed.
    operational: true if the flag cannot change a result but for rounding (where
      things lie, who is asked, how much is shown), so a run may be resumed with
      another value.
  """
  return dataclasses.field(
    default=default,
    metadata=dict(
      help=help_text,
      choices=tuple(choices),
      low=low,
      high=high,
      operational=operational,
    ),
  )


def define(config_class: type, values: flags.FlagValues) -> None:
  """Defines one flag for each field of a config dataclass."""
  kinds = typing.get_type_hints(config_class)
  for field in dataclasses.fields(config_class):
    kind, meta = kinds[field.name], field.metadata
    kwargs = {'flag_values': values, 'module_name': config_class.__doc__}
    if meta['choices']:
      flags.DEFINE_enum(
        field.name, field.default, meta['choices'], meta['help'], **kwargs
      )
      continue
    if kind in (int, float):
      kwargs |= dict(lower_bound=meta['low'], upper_bound=meta['high'])
    _DEFINE[kind](field.name, field.default, meta['help'], **kwargs)


def build(config_class: type, values: flags.FlagValues):
  """A frozen config from parsed flags."""
  names = [field.name for field in dataclasses.fields(config_class)]
  return config_class(**{name: values[name].value for name in names})


def parse(
  argv: Sequence[str], config_classes: Sequence[type]
) -> flags.FlagValues:
  """Parses a command line that may use the flags of these classes only.

  Raises:
    UserError: an unknown flag, a bad value, a word that is no flag, or a
      flagfile that cannot be read.
  """
  values, words = parse_words(argv, config_classes)
  if words:
    raise UserError(
      f'{words[0]!r} is not a flag; all settings are --name=value'
    )
  return values


def parse_words(
  argv: Sequence[str], config_classes: Sequence[type]
) -> tuple[flags.FlagValues, list[str]]:
  """As `parse`, for a command that also takes words before and after flags."""
  values = flags.FlagValues()
  values.set_gnu_getopt()  # a word does not end the flags
  for config_class in config_classes:
    define(config_class, values)
  flags.DEFINE_boolean('help', False, 'Shows this help.', flag_values=values)
  try:
    words = values(list(argv))
  except flags.Error as e:
    reason = str(e).replace('\n', ' ').removeprefix('ERROR:: ')
    raise UserError(reason) from e
  except UnicodeDecodeError as e:
    raise UserError(f'the --flagfile is not UTF-8 text: {e}') from e
  for name in values:
    if values[name].value != values[name].value:  # within any bounds
      raise UserError(f'--{name}=nan is no number')
  return values, words[1:]


def help_text(usage: str, config_classes: Sequence[type]) -> str:
  """The whole `--help` page of a command, its flags grouped by stage."""
  lines = [
    usage.strip(),
    '',
    'Flags are --name=value, --name or --noname; the last one wins.',
    '--flagfile=FILE reads them from a file, one a line.',
  ]
  for config_class in config_classes:
    kinds = typing.get_type_hints(config_class)
    lines += ['', config_class.__doc__.splitlines()[0]]
    for field in dataclasses.fields(config_class):
      choices = '|'.join(field.metadata['choices'])
      kind = choices or kinds[field.name].__name__
      default = repr(field.default) if field.default != '' else 'empty'
      lines += textwrap.wrap(
        f'--{field.name} ({kind}, default {default}): {field.metadata["help"]}',
        initial_indent='  ',
        subsequent_indent='      ',
        break_on_hyphens=False,
      )
  return '\n'.join(lines)


def run(
  command: Callable[..., None],
  config_classes: Sequence[type],
  usage: str,
  argv: Sequence[str] | None = None,
  on_failure: Callable[[str, int], None] = lambda message, code: None,
  exit_terminated: int = EXIT_TERMINATED,
  takes_words: bool = False,
) -> None:
  """Runs a command; exits 1 if it failed, 2 on bad flags, 130 on Ctrl-C.

  Args:
    command: what to run; it is handed the flags.
    config_classes: whose flags it has.
    usage: its docstring.
    argv: the command line, if not this process's.
    on_failure: is told message and exit code of what ends the command early.
    exit_terminated: exit code on SIGTERM.
    takes_words: the command is also handed the words that are no flags.
  """
  argv = list(sys.argv if argv is None else argv)
  _log_to_stderr()
  try:
    if takes_words:
      values, words = parse_words(argv, config_classes)
      command = functools.partial(command, words=words)
    else:
      values = parse(argv, config_classes)
  except UserError as e:
    _fail(str(e), EXIT_USAGE)
  if values['help'].value:
    print(help_text(usage, config_classes))
    sys.exit(0)
  raise_when_preempted()
  try:
    command(values)
  except (
    *(UserError, KeyboardInterrupt, Preempted, OSError, MemoryError),
  ) as e:
    message, code = _explain(e, argv)
    if isinstance(e, Preempted):
      code = exit_terminated
    on_failure(message, code)
    sys.stderr.write(f'{"error: " if code else ""}{message}\n')
    sys.exit(code)


def _explain(error: BaseException, argv: Sequence[str]) -> tuple[str, int]:
  """What ended a command, in one line, and the exit code."""
  if isinstance(error, KeyboardInterrupt | Preempted):
    by, code = 'interrupted', EXIT_INTERRUPTED
    if isinstance(error, Preempted):
      by, code = 'stopped by SIGTERM', EXIT_TERMINATED
    again = shlex.join(['python', '-m', _module_name(), *argv[1:]])
    return (
      f'{by}; nothing that was done is lost. The same command goes on: {again}',
      code,
    )
  if isinstance(error, MemoryError):
    said = ' '.join(str(error).split())[:120]
    told = f'out of memory{f": {said}" if said else ""}'
    return f'{told}; what was done is kept', EXIT_FAILED
  if not isinstance(error, OSError):
    return str(error), EXIT_FAILED
  if error.errno is None:
    raise error
  place = f': {error.filename}' if error.filename else ''
  hint = (
    ' (free some space; the same command goes on)'
    if error.errno in (errno.ENOSPC, errno.EDQUOT)
    else ''
  )
  return f'{os.strerror(error.errno)}{place}{hint}', EXIT_FAILED


def _log_to_stderr() -> None:
  """Shows log lines without the clutter of a server's log."""
  flags.FLAGS.mark_as_parsed()  # absl's own; ours are never global
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(std_logging.Formatter('%(levelname)s %(message)s'))
  package = os.path.dirname(__file__)

  def is_shown(record: std_logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is KeyboardInterrupt:
      return False  # `run` tells of it
    # Libraries are heard when something is wrong.
    return record.levelno >= std_logging.WARNING or record.pathname.startswith(
      package
    )

  handler.addFilter(is_shown)


def _module_name() -> str:
  spec = getattr(sys.modules.get('__main__'), '__spec__', None)
  return spec.name if spec else 'lmtx_jax.main'


def _fail(message: str, code: int) -> typing.NoReturn:
  sys.stderr.write(f'error: {message}\n')
  sys.stderr.flush()
  sys.exit(code)
