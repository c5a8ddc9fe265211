"""The architectures that are supported, in Hugging Face's words."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Architecture:
  """One `model_type`.

  Attributes:
    model: name of its class in transformers.
    fields: our configuration field to its key in config.json.
    layer: prefix of the tensors of one layer.
    embeddings: our table to its tensor.
    modules: our module of a layer to its modules; several are joined along
      the outputs.
    first_position: row of the position embedding that the first token gets.
    relative: module of the table of relative positions; empty: there is none.
  """

  model: str
  fields: Mapping[str, str]
  layer: str
  embeddings: Mapping[str, str]
  modules: Mapping[str, tuple[str, ...]]
  first_position: int = 0
  relative: str = ''

  def tensor_names(self, path: tuple[str, ...]) -> list[str]:
    """Tensors that make up the parameter at `path`."""
    if path[0] == 'embeddings' and path[1] != 'norm':
      return [f'embeddings.{self.embeddings[path[1]]}.weight']
    if path[0] == 'relative_positions':
      return [f'{self.relative}.weight']
    leaf = 'bias' if path[-1] == 'bias' else 'weight'
    if path[0] == 'embeddings':
      return [f'embeddings.LayerNorm.{leaf}']
    prefix = self.layer.format(path[0].removeprefix('layer_'))
    modules = self.modules['.'.join(path[1:-1])]
    return [f'{prefix}.{module}.{leaf}' for module in modules]


ARCHITECTURES = {
  'distilbert': Architecture(
    model='DistilBertModel',
    fields=dict(
      num_layers='n_layers',
      dim='dim',
      num_heads='n_heads',
      ffn_dim='hidden_dim',
      vocab_size='vocab_size',
      max_positions='max_position_embeddings',
      pad_token_id='pad_token_id',
      activation='activation',
      dropout='dropout',
      attention_dropout='attention_dropout',
      init_std='initializer_range',
    ),
    layer='transformer.layer.{}',
    embeddings=dict(word='word_embeddings', position='position_embeddings'),
    modules={
      'attention.qkv': (
        'attention.q_lin',
        'attention.k_lin',
        'attention.v_lin',
      ),
      'attention.out': ('attention.out_lin',),
      'attention_norm': ('sa_layer_norm',),
      'ffn_in': ('ffn.lin1',),
      'ffn_out': ('ffn.lin2',),
      'ffn_norm': ('output_layer_norm',),
    },
  ),
  'bert': Architecture(
    model='BertModel',
    fields=dict(
      num_layers='num_hidden_layers',
      dim='hidden_size',
      num_heads='num_attention_heads',
      ffn_dim='intermediate_size',
      vocab_size='vocab_size',
      max_positions='max_position_embeddings',
      type_vocab_size='type_vocab_size',
      pad_token_id='pad_token_id',
      activation='hidden_act',
      layer_norm_eps='layer_norm_eps',
      dropout='hidden_dropout_prob',
      attention_dropout='attention_probs_dropout_prob',
      projection_dropout='hidden_dropout_prob',
      init_std='initializer_range',
    ),
    layer='encoder.layer.{}',
    embeddings=dict(
      word='word_embeddings',
      position='position_embeddings',
      token_type='token_type_embeddings',
    ),
    modules={
      'attention.qkv': (
        'attention.self.query',
        'attention.self.key',
        'attention.self.value',
      ),
      'attention.out': ('attention.output.dense',),
      'attention_norm': ('attention.output.LayerNorm',),
      'ffn_in': ('intermediate.dense',),
      'ffn_out': ('output.dense',),
      'ffn_norm': ('output.LayerNorm',),
    },
  ),
  'mpnet': Architecture(
    model='MPNetModel',
    fields=dict(
      num_layers='num_hidden_layers',
      dim='hidden_size',
      num_heads='num_attention_heads',
      ffn_dim='intermediate_size',
      vocab_size='vocab_size',
      max_positions='max_position_embeddings',
      relative_buckets='relative_attention_num_buckets',
      pad_token_id='pad_token_id',
      activation='hidden_act',
      layer_norm_eps='layer_norm_eps',
      dropout='hidden_dropout_prob',
      attention_dropout='attention_probs_dropout_prob',
      projection_dropout='hidden_dropout_prob',
      init_std='initializer_range',
    ),
    layer='encoder.layer.{}',
    embeddings=dict(word='word_embeddings', position='position_embeddings'),
    modules={
      'attention.qkv': (
        'attention.attn.q',
        'attention.attn.k',
        'attention.attn.v',
      ),
      'attention.out': ('attention.attn.o',),
      'attention_norm': ('attention.LayerNorm',),
      'ffn_in': ('intermediate.dense',),
      'ffn_out': ('output.dense',),
      'ffn_norm': ('output.LayerNorm',),
    },
    first_position=2,  # whatever the id of padding is
    relative='encoder.relative_attention_bias',
  ),
}
