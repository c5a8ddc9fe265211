"""Every flag, and the frozen configs built from them, one class a stage.

A field is a flag: `cli.flag` gives its default, its help and its bounds. The
library is handed configs and never reads flags.
"""

from __future__ import annotations

import dataclasses
import os

from lmtx_jax.baseline_config import IcxmlConfig, MethodConfig
from lmtx_jax.cli import flag
from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.plan_config import PlanConfig
from lmtx_jax.train_config import TrainConfig, WarmupConfig
from lmtx_jax.types import UserError


def default_cache() -> str:
  """Folder for everything that is kept between runs."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
  return os.environ.get('LMTX_CACHE') or os.path.join(home, 'lmtx_jax')


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """Which data."""

  dataset: str = flag(
    '',
    'Name of a dataset (see lmtx_jax.prepare --help).',
    operational=True,  # what binds a run is the data's fingerprint
  )
  data_dir: str = flag(
    '',
    'Folder with trn.json, tst.json, lbl.json (plain or .gz).',
    operational=True,
  )
  data_cache: str = flag(
    default_cache(),
    'Folder for converted datasets and token files.',
    operational=True,
  )


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """How a record becomes a text."""

  encode_title: bool = flag(True, 'Documents are read as title TAB content.')
  label_text: str = flag(
    'title',
    'Which text of a label is encoded and shown to the teacher.',
    choices=('title', 'title_content'),
  )


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """Which documents are used."""

  num_train_docs: int = flag(
    0, 'Training documents, drawn at random; 0 takes all.', low=0
  )
  num_dev_docs: int = flag(
    800, 'Documents kept from training for the dev score.', low=1
  )
  num_test_docs: int = flag(
    0, 'Test documents (the first of the file) scored; 0 takes all.', low=0
  )


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Bi-encoder."""

  encoder: str = flag(
    'sentence-transformers/msmarco-distilbert-base-v4',
    'Folder or hub name of a sentence-transformers or transformers model with '
    'model.safetensors, a text file of word vectors (GloVe), or "scratch": a '
    'small DistilBERT without pretraining.',
  )
  max_doc_tokens: int = flag(
    430, 'Tokens of a document that are embedded.', low=3
  )
  max_train_doc_tokens: int = flag(
    0, 'Tokens of a document in training; 0 is as --max_doc_tokens.', low=0
  )
  max_label_tokens: int = flag(
    15, 'Tokens of a label text that are embedded.', low=3
  )
  compute_dtype: str = flag(
    'float32',
    'Number format of the matrix products; parameters stay float32.',
    choices=('float32', 'bfloat16'),
  )
  embedding_dtype: str = flag(
    'float32',
    'Number format in which embeddings are kept and searched.',
    choices=('float32', 'bfloat16'),
  )
  encode_batch_tokens: int = flag(
    0,
    'Tokens in one batch of the encoder on one device; 0: 2048 on a CPU, 65536 '
    'elsewhere.',
    low=0,
    operational=True,
  )
  pooling: str = flag(
    'folder',
    "An embedding is the mean of a text's hidden states, the first of them "
    '(cls), or what the folder says, which is the mean if it says nothing.',
    choices=('folder', 'mean', 'cls'),
  )
  similarity: str = flag(
    'cosine',
    'Of two embeddings; dot leaves their lengths as they are (MACLR).',
    choices=('cosine', 'dot'),
  )
  projection_dim: int = flag(
    0,
    'Adds a dense layer with tanh to the encoder, of this width (MACLR: 512); '
    '0: none.',
    low=0,
  )
  scratch_layers: int = flag(2, 'Layers of --encoder=scratch.', low=1)
  scratch_dim: int = flag(256, 'Width of --encoder=scratch.', low=8)
  scratch_heads: int = flag(4, 'Attention heads of --encoder=scratch.', low=1)
  scratch_vocab: int = flag(
    8192, 'WordPiece vocabulary of --encoder=scratch.', low=200
  )


@dataclasses.dataclass(frozen=True)
class ShortlistConfig:
  """Shortlist."""

  shortlist: str = flag(
    'dense',
    'Labels closest by the encoder, by the words they share with the document '
    '(TF-IDF), or by the ranks in both.',
    choices=('dense', 'lexical', 'hybrid'),
  )
  lexical_weight: float = flag(
    0.0,
    'Weight of the words that document and label share (their TF-IDF cosine) '
    'beside the embeddings, in dev and test scores and in the bundle; 0: the '
    'embeddings alone.',
    low=0.0,
    high=10.0,
  )
  label_prior: float = flag(
    0.0,
    'LMTX: times log(1 + documents that have the label as pseudo label), added '
    'to scores of labels in dev and test scores and in the bundle. The more '
    'often a label is accepted, the more often it is a negative of others, '
    'which lowers it everywhere; this gives it back. Needs --lexical_weight.',
    low=0.0,
    high=10.0,
  )
  neighbour_weight: float = flag(
    0.0,
    'LMTX: times the share of the --neighbours nearest training documents with '
    'pseudo labels that have the label, added to scores of labels in dev and '
    'test scores and in the bundle, nearer ones counting more. Needs '
    '--lexical_weight, and embeds the training documents after the last cycle '
    'too.',
    low=0.0,
    high=10.0,
  )
  shortlist_size: int = flag(
    10, 'Labels a document that the teacher is asked about.', low=1
  )
  index: str = flag(
    'auto',
    'MIPS index of the labels: ScaNN, exact search on the device, or whichever '
    'fits.',
    choices=('auto', 'scann', 'exact'),
  )
  shortlist_shards: int = flag(
    0,
    'Parts of the ScaNN index, one of which must fit into memory; 0: as many '
    'as the size asks for.',
    low=0,
  )


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """Teacher."""

  teacher: str = flag(
    'sglang',
    'Who judges the pairs: an LLM on an SGLang server, word overlap, or a '
    'simulation that reads the true labels.',
    choices=('lexical', 'oracle', 'sglang'),
  )
  verdict_store: str = flag(
    '',
    'SQLite file of all verdicts, shared by runs; empty: in the run directory.',
    operational=True,
  )
  prompt: str = flag(
    'tag',
    'The question put to the teacher, by the name of its template.',
    choices=('tag', 'product', 'see_also', 'wikipedia'),
  )
  lexical_threshold: float = flag(
    0.5, 'Lexical teacher: the score above which it says yes.', low=0.0
  )
  oracle_recall: float = flag(
    1.0, 'Oracle: share of the true pairs it accepts.', low=0.0, high=1.0
  )
  oracle_false_yes: float = flag(
    0.0, 'Oracle: share of the wrong pairs it accepts.', low=0.0, high=1.0
  )


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run."""

  run_dir: str = flag(
    '', 'Folder of the run; default runs/NAME of the dataset.', operational=True
  )
  method: str = flag(
    'lmtx',
    'What trains the encoder: LMTX, a self-supervised baseline of the paper, '
    'or nothing (icxml asks the LLM about each test document).',
    choices=('lmtx', 'rts', 'maclr', 'ict', 'simcse', 'icxml'),
  )
  num_cycles: int = flag(
    3,
    'Cycles of LMTX at most; 0 evaluates and exports the start, whatever the '
    'method.',
    low=0,
  )
  dev_tolerance: float = flag(
    0.0,
    'LMTX: standard errors by which the dev score of a cycle may be below the '
    'highest; the last such cycle is kept. 0: stop where it does not rise, as '
    'in the paper.',
    low=0,
    high=10,
  )
  seed: int = flag(0, 'Seed of every draw.', low=0, high=2**32 - 1)
  report: bool = flag(
    True, 'Write RUN/report.html after each cycle.', operational=True
  )
  dry_run: bool = flag(
    False,
    'Goes as far as the first shortlist, then tells what the teacher would be '
    'asked, how long it takes and what it costs; the run goes on from there.',
    operational=True,
  )


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
  """Several processes, on one host or many."""

  coordinator_address: str = flag(
    '',
    'HOST:PORT of process 0; on a TPU pod and in a Slurm step the processes '
    'find each other.',
    operational=True,
  )
  num_processes: int = flag(
    1, 'Processes of --coordinator_address.', low=1, operational=True
  )
  process_id: int = flag(
    0, 'Number of this process, from 0.', low=0, operational=True
  )
  join_timeout_s: int = flag(
    300, 'Seconds to wait for processes that start.', low=1, operational=True
  )

  def __post_init__(self):
    """Checks what no flag can check alone."""
    if not self.coordinator_address and self.num_processes > 1:
      raise UserError(
        f'--num_processes={self.num_processes} needs --coordinator_address'
        '=HOST:PORT of process 0'
      )


@dataclasses.dataclass(frozen=True)
class Config:
  """All that a training run is told."""

  run: RunConfig
  source: SourceConfig
  text: TextConfig
  sample: SampleConfig
  encoder: EncoderConfig
  shortlist: ShortlistConfig
  plan: PlanConfig
  teacher: TeacherConfig
  llm: LlmConfig
  train: TrainConfig
  warmup: WarmupConfig
  method: MethodConfig
  icxml: IcxmlConfig
  processes: ProcessConfig

  def __post_init__(self):
    """Checks what no stage can check alone."""
    if self.run.dry_run and (self.run.method != 'lmtx' or not self.has_teacher):
      raise UserError(
        f'--dry_run tells what the teacher is asked, and nobody is by --method='
        f'{self.run.method} --num_cycles={self.run.num_cycles}'
      )
    of_lmtx = {
      'hard_negatives': self.train.hard_negatives,
      'batching=clusters': self.train.batching != 'length',
      'teacher_budget': self.plan.teacher_budget,
    }
    for flag_name, is_set in of_lmtx.items():
      if is_set and self.run.method != 'lmtx':
        raise UserError(f'--{flag_name} goes with --method=lmtx alone')
    for name in ('label_prior', 'neighbour_weight'):
      if getattr(self.shortlist, name) and not self.shortlist.lexical_weight:
        raise UserError(f'--{name} goes with a --lexical_weight above 0')
    if self.shortlist.neighbour_weight and not self.plan.neighbours:
      raise UserError('--neighbour_weight goes with --neighbours above 0')
    is_dot = self.encoder.similarity == 'dot'
    if self.shortlist.neighbour_weight and is_dot:
      raise UserError('--neighbour_weight goes with --similarity=cosine')
    if self.plan.teacher_budget and self.plan.neighbours and is_dot:
      raise UserError(
        '--teacher_budget looks at neighbours by --similarity=cosine; with'
        ' another one set --neighbours=0'
      )
    if self.run.method != 'simcse' and self.method.training_head:
      raise UserError('--training_head goes with --method=simcse alone')
    if self.run.method == 'icxml' and self.teacher.teacher != 'sglang':
      raise UserError(
        '--method=icxml asks an LLM: --teacher=sglang, not'
        f' --teacher={self.teacher.teacher}'
      )

  @property
  def has_teacher(self) -> bool:
    """Whether the method asks one."""
    return self.run.method in ('lmtx', 'icxml') and self.run.num_cycles > 0

  @property
  def parts(self) -> tuple:
    """The config of each stage."""
    return tuple(
      getattr(self, field.name) for field in dataclasses.fields(self)
    )


TRAINING = (
  RunConfig,
  SourceConfig,
  TextConfig,
  SampleConfig,
  EncoderConfig,
  ShortlistConfig,
  PlanConfig,
  TeacherConfig,
  LlmConfig,
  TrainConfig,
  WarmupConfig,
  MethodConfig,
  IcxmlConfig,
  ProcessConfig,
)  # in the order of Config's fields
