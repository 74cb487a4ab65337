"""From a network and a prompt to music: drawing tokens, one after the other, that a tokenizer can read back."""

from musictrain.generation.continuation import SampledPiece, sample_pieces
from musictrain.generation.filters import SamplingRule
from musictrain.generation.generate import Generated, generate, generate_scored

__all__ = ["Generated", "SampledPiece", "SamplingRule", "generate", "generate_scored", "sample_pieces"]
