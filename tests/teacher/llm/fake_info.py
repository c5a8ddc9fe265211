"""What a fake server tells of itself."""

import time


def model_info(server):
  return {
    'model_path': server.model_path,
    'served_model_name': server.model_path,
    'tokenizer_path': server.tokenizer_path,
    'is_generation': server.is_generation,
    'preferred_sampling_params': None,
    'weight_version': server.weight_version,
    'load_format': 'auto',
    'model_type': 'llama',
    'architectures': ['LlamaForCausalLM'],
  }


def server_info(server):
  return model_info(server) | {
    'context_length': None,
    'max_queued_requests': server.max_queued,
    'schedule_policy': 'lpm',
    'grammar_backend': server.grammar_backend,
    'status': 'ready',
    'max_total_num_tokens': 65536,
    'max_req_input_len': server.context_length - 6,
    'version': '0.5.20',
  }


def models(server):
  model = {
    'id': server.model_path,
    'object': 'model',
    'created': int(time.time()),
    'owned_by': 'sglang',
    'root': server.model_path,
    'parent': None,
    'max_model_len': server.context_length,
  }
  return {'object': 'list', 'data': [model]}


def tokens(server, ids):
  return {
    'tokens': ids,
    'count': [len(row) for row in ids],
    'max_model_len': server.context_length,
  }


def openai_error(message, kind, status):
  """The body of an error, as OpenAI's."""
  return {
    'object': 'error',
    'message': message,
    'type': kind,
    'param': None,
    'code': status,
  }
