"""The exceptions a caller can catch.

    MoeLensError
    ├── InputError            what the user gave cannot be used (also a ValueError); exit code 2
    │   ├── CheckpointError   a model directory that is missing, cut short, corrupt or mismatched
    │   ├── CorpusError       text that is missing, empty, or does not fit
    │   └── TraceError        a routing trace that breaks its schema
    └── UnsupportedModel      a model we would have to guess about; exit code 2
        └── ProofFailed       a model that loaded, and failed a check at load

Every message names the value, the rule it broke, and the way out.
"""


class MoeLensError(Exception):
    """The root of everything this package raises on purpose."""


class InputError(MoeLensError, ValueError):
    """What the caller gave cannot be used; the message says what would do."""


class CheckpointError(InputError):
    """A checkpoint that is missing, cut short, corrupt, or not what its config says."""


class CorpusError(InputError):
    """Text that is missing, empty, or does not fit the model."""


class TraceError(InputError):
    """A routing trace that breaks its schema."""


class UnsupportedModel(MoeLensError):
    """A model whose insides we would have to guess; adding it is our work, not the user's."""


class ProofFailed(UnsupportedModel):
    """A model that loaded, but failed a check that every number here stands on."""
