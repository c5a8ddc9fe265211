"""What requests and answers look like; the OpenAPI page is made of these."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr


class _Strict(BaseModel):
  """Unknown fields are errors, and 5 is no text."""

  model_config = ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)


class Document(_Strict):
  """A document to tag; its texts are cut to what the encoder reads."""

  uid: StrictStr | StrictInt | None = Field(
    None, description='Comes back in the answer; by default its number from 1.'
  )
  title: str | None = None
  content: str | None = None


class TagRequest(_Strict):
  """Documents to tag."""

  documents: list[Document] = Field(min_length=1)
  top_k: int | None = Field(
    None,
    ge=1,
    description='Labels of each document; by default 10, or the most that'
    ' the service gives if that is less.',
  )
  min_score: float | None = Field(
    None, description='Labels of a lower score are left out.'
  )


class ScoredLabel(BaseModel):
  """A label, and its score: a cosine; words, a prior and votes may add."""

  uid: str
  title: str
  score: float


class Prediction(BaseModel):
  """The labels of a document, highest score first."""

  uid: str
  labels: list[ScoredLabel]


class TagResponse(BaseModel):
  """A prediction of each document, in their order."""

  results: list[Prediction]


class NewLabel(_Strict):
  """A label to add."""

  uid: StrictStr | StrictInt
  title: str
  content: str | None = None


class AddRequest(_Strict):
  """Labels to add."""

  labels: list[NewLabel] = Field(min_length=1)


class LabelsChanged(BaseModel):
  """What became of the label set."""

  changed: int
  num_labels: int


class LabelOut(BaseModel):
  """A label."""

  uid: str
  title: str


class LabelList(BaseModel):
  """Some of the labels."""

  labels: list[LabelOut]
  more: bool = Field(description='Whether a larger offset would find others.')


class NearestLabels(BaseModel):
  """Labels close to one, highest cosine first."""

  labels: list[ScoredLabel]


class Health(BaseModel):
  """What runs."""

  status: str
  version: str
  num_labels: int
  labels_can_change: bool
  needs_key: bool
  max_top_k: int
  compiled_shapes: int
  shapes: int


class ErrorDetail(BaseModel):
  """Why a request was refused."""

  status: int
  message: str


class ErrorResponse(BaseModel):
  """Every error, whatever its status."""

  error: ErrorDetail
