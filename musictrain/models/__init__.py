"""Networks: plain ``nn.Module``s that turn tokens (batch, time) into logits (batch, time, vocab), and nothing else."""

from musictrain.models.committee import Committee
from musictrain.models.decoder import Decoder
from musictrain.models.recurrent import Recurrent
from musictrain.models.voice_frames import VoiceFrames

__all__ = ["Committee", "Decoder", "Recurrent", "VoiceFrames"]
