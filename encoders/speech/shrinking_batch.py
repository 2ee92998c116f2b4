"""ShrinkingTask: openai-whisper's decoding of a batch, which drops each row when it ends.

openai-whisper computes all rows until the longest row ends. Every step reads the keys and values of the sound of each
row (18 MB for tiny.en) and multiplies with the whole vocabulary. Texts of a batch differ in length by several times.
"""

import numpy as np
import torch
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.model import Whisper

from encoders.speech.text_decoder import DecoderSteps, Sound, Vocabulary


class ShrinkingTask(DecodingTask):  # type: ignore[misc]
    """DecodingTask with one candidate a row (greedy or sampled). Same tokens, up to rounding by batch size."""

    def __init__(self, model: Whisper, options: DecodingOptions, vocabulary: Vocabulary, sound: Sound) -> None:
        super().__init__(model, options)
        self.inference = DecoderSteps(model, vocabulary, sound)

    def _main_loop(self, audio_features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, list[float]]:
        """Return tokens (B, N) padded with eot, the sums of log probabilities (B,), and no_speech_probs."""
        inference: DecoderSteps = self.inference
        count, eot = len(tokens), self.tokenizer.eot
        all_tokens = torch.full((count, tokens.shape[1] + self.sample_len), eot, device=tokens.device)
        all_sums = torch.zeros(count, device=audio_features.device)
        no_speech_probs = [np.nan] * count
        rows = torch.arange(count, device=tokens.device)  # indices of the rows that have not ended
        sums = all_sums.clone()
        try:
            for step in range(self.sample_len):
                logits = inference.logits(tokens)
                if step == 0 and self.tokenizer.no_speech is not None:
                    at_start = logits[:, self.sot_index].float().softmax(dim=-1)
                    no_speech_probs = at_start[:, self.tokenizer.no_speech].tolist()
                logits = logits[:, -1]
                for logit_filter in self.logit_filters:
                    logit_filter.apply(logits, tokens)
                tokens, _ = self.decoder.update(tokens, logits, sums)
                all_tokens[rows, : tokens.shape[1]] = tokens
                all_sums[rows] = sums
                is_open = tokens[:, -1] != eot
                if not is_open.any() or tokens.shape[1] > self.n_ctx:
                    break
                if not is_open.all():
                    rows, tokens, sums = rows[is_open], tokens[is_open], sums[is_open]
                    inference.keep(is_open)
        finally:
            inference.cleanup_caching()
        return all_tokens, all_sums, no_speech_probs
