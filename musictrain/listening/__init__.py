"""Notes to hear and to see, without a sound font and without a synthesiser to install."""

from musictrain.listening.pianoroll import draw_pianoroll
from musictrain.listening.rolls import roll_of, roll_script
from musictrain.listening.sample_files import write_sample
from musictrain.listening.synthesis import SAMPLE_RATE, seconds_at, synthesise, write_wav

__all__ = ["SAMPLE_RATE", "draw_pianoroll", "roll_of", "roll_script", "seconds_at", "synthesise", "write_sample", "write_wav"]
